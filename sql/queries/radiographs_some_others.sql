-- Where a few radiographs beside this one are: the newest and the oldest, which lie on different disks where any do.
-- parameters: radiograph_id bigint      returns: object_key text
SELECT DISTINCT object_key
FROM (
    (SELECT object_key FROM fracture.radiograph WHERE radiograph_id <> :radiograph_id
     ORDER BY radiograph_id DESC LIMIT 3)
    UNION ALL
    (SELECT object_key FROM fracture.radiograph WHERE radiograph_id <> :radiograph_id ORDER BY radiograph_id LIMIT 3)
) some_others;
