-- Facts of the images that were received on one day (UTC), for drift of the inputs.
-- parameters: day date      returns: the columns of monitoring_training_facts
SELECT r.width_px, r.height_px, r.size_bytes, r.bits_stored, r.body_part, r.media_type, g.view, g.manufacturer
FROM fracture.radiograph r
JOIN fracture.radiograph_subgroup g USING (radiograph_id)
WHERE r.received_at >= CAST(:day AS date)::timestamp AT TIME ZONE 'UTC'
  AND r.received_at < (CAST(:day AS date) + 1)::timestamp AT TIME ZONE 'UTC'
ORDER BY r.radiograph_id;
