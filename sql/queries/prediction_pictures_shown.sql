-- The objects with those pictures of a version that the worklist shows, of open studies and of closed ones.
-- parameters: version int      returns: object_key text
SELECT DISTINCT picture.object_key
FROM fracture.worklist w
JOIN fracture.radiograph r USING (study_key)
JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = w.version
CROSS JOIN LATERAL (VALUES (p.heat_map_key), (p.overlay_key)) AS picture (object_key)
WHERE w.version = :version AND picture.object_key IS NOT NULL;
