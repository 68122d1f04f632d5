-- The first radiographs without an outcome of the version.
-- parameters: version int, through bigint (NULL: all), max_rows int      returns: radiograph_id bigint
SELECT r.radiograph_id
FROM fracture.radiograph r
LEFT JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = :version
WHERE p.radiograph_id IS NULL AND (CAST(:through AS bigint) IS NULL OR r.radiograph_id <= :through)
ORDER BY r.radiograph_id
LIMIT :max_rows;
