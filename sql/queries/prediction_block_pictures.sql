-- Objects with pictures that outcomes of a range name.
-- parameters: version int, first bigint, last bigint      returns: object_key text
SELECT DISTINCT picture.object_key
FROM fracture.prediction p
CROSS JOIN LATERAL (VALUES (p.heat_map_key), (p.overlay_key)) AS picture (object_key)
WHERE p.version = :version AND p.radiograph_id BETWEEN :first AND :last AND picture.object_key IS NOT NULL;
