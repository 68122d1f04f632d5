-- The outcome of one radiograph by one version.
-- parameters: version int, radiograph_id bigint
-- returns: the columns of fracture.prediction
SELECT version, radiograph_id, probability, reason, calibrated, operating_point, heat_map_key, overlay_key, box,
       scored_at
FROM fracture.prediction
WHERE version = :version AND radiograph_id = :radiograph_id;
