-- The inbox's objects that are these radiographs, the first received first.
-- parameters: radiograph_ids bigint[]      returns: radiograph_id bigint, object_key text
SELECT radiograph_id, object_key
FROM fracture.received_object
WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))
ORDER BY received_object_id;
