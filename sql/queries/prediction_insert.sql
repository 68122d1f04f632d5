-- Write outcomes; a radiograph that has one of this version keeps it.
-- parameters: version int, rows jsonb      returns: radiograph_id bigint
INSERT INTO fracture.prediction
    (version, radiograph_id, probability, reason, calibrated, operating_point, heat_map_key, overlay_key, box)
SELECT :version, radiograph_id, probability, reason, calibrated, operating_point, heat_map_key, overlay_key, box
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
    radiograph_id bigint, probability real, reason text, calibrated real, operating_point text, heat_map_key text,
    overlay_key text, box jsonb)
ORDER BY radiograph_id
ON CONFLICT (version, radiograph_id) DO NOTHING
RETURNING radiograph_id;
