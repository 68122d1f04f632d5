-- The images of a study, each with its outcome by the version that the worklist shows.
-- parameters: study_key text      returns: radiograph_id bigint and other facts, prediction jsonb
--             (NULL: no outcome yet)
SELECT r.radiograph_id, r.width_px, r.height_px, r.laterality, r.view,
       CASE WHEN p.radiograph_id IS NOT NULL THEN jsonb_build_object(
           'version', p.version, 'calibrated', p.calibrated, 'reason', p.reason, 'operating_point', p.operating_point,
           'heat_map_key', p.heat_map_key, 'box', p.box, 'scored_at', p.scored_at) END AS prediction
FROM fracture.radiograph r
JOIN fracture.worklist w USING (study_key)
LEFT JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = w.version
WHERE r.study_key = :study_key
ORDER BY r.radiograph_id;
