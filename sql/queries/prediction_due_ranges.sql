-- Radiographs that the version has no outcome for, newest first, cut into ranges of at most batch_size of them. No row
-- means nothing to do. Up to complete_up_to all have one, and none is looked at: as a value of its own, not a subquery,
-- it tells the planner how short the rest is.
-- parameters: version int, batch_size int, complete_up_to bigint, through bigint (NULL: all)
-- returns: first bigint, last bigint
SELECT min(radiograph_id) AS first, max(radiograph_id) AS last
FROM (
    SELECT r.radiograph_id, (row_number() OVER (ORDER BY r.radiograph_id DESC) - 1) / :batch_size AS batch
    FROM fracture.radiograph r
    LEFT JOIN fracture.prediction p
        ON p.version = :version AND p.radiograph_id = r.radiograph_id AND p.radiograph_id > :complete_up_to
    WHERE r.radiograph_id > :complete_up_to
      AND (CAST(:through AS bigint) IS NULL OR r.radiograph_id <= :through)
      AND p.radiograph_id IS NULL
) due
GROUP BY batch
ORDER BY batch;
