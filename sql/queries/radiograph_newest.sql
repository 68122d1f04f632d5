-- The newest radiograph.
-- parameters: none      returns: radiograph_id bigint (0 where there is none)
SELECT coalesce(max(radiograph_id), 0) AS radiograph_id
FROM fracture.radiograph;
