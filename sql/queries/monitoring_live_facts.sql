-- Facts of the images that were received in the 24 hours before a time, for drift of the inputs.
-- parameters: until timestamptz      returns: the columns of monitoring_training_facts
SELECT r.width_px, r.height_px, r.size_bytes, r.bits_stored, r.body_part, r.media_type, g.view, g.manufacturer
FROM fracture.radiograph r
JOIN fracture.radiograph_subgroup g USING (radiograph_id)
WHERE r.received_at >= CAST(:until AS timestamptz) - interval '24 hours' AND r.received_at < :until
ORDER BY r.radiograph_id;
