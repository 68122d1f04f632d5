-- Whether every radiograph has its one outcome of the version.
-- parameters: version int, through bigint (NULL: all)
-- returns: radiographs bigint, scored bigint, rejected bigint, missing bigint, first_missing bigint, newest bigint
--          (the last two are radiograph ids, NULL where there is none)
SELECT count(r.radiograph_id) AS radiographs,
       count(p.probability) AS scored,
       count(p.reason) AS rejected,
       count(*) FILTER (WHERE p.radiograph_id IS NULL) AS missing,
       min(r.radiograph_id) FILTER (WHERE p.radiograph_id IS NULL) AS first_missing,
       max(r.radiograph_id) AS newest
FROM fracture.radiograph r
LEFT JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = :version
WHERE CAST(:through AS bigint) IS NULL OR r.radiograph_id <= :through;
