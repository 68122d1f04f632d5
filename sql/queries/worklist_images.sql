-- The images of a study, each with its outcome by the version that the worklist shows.
-- parameters: study_key text      returns: radiograph_id bigint, object_key text and other facts, prediction jsonb
--             (NULL: no outcome yet)
SELECT r.radiograph_id, r.object_key, r.media_type, r.width_px, r.height_px, r.body_part, r.laterality, r.view,
       r.received_at,
       CASE WHEN p.radiograph_id IS NOT NULL THEN jsonb_build_object(
           'version', p.version, 'probability', p.probability, 'calibrated', p.calibrated, 'reason', p.reason,
           'operating_point', p.operating_point, 'heat_map_key', p.heat_map_key, 'overlay_key', p.overlay_key,
           'box', p.box) END AS prediction
FROM fracture.radiograph r
JOIN fracture.worklist w USING (study_key)
LEFT JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = w.version
WHERE r.study_key = :study_key
ORDER BY r.radiograph_id;
