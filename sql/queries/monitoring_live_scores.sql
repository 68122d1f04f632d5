-- A version's calibrated scores of the images that were received in the 24 hours before a time: not of older ones that a
-- new champion has scored again.
-- parameters: version int, until timestamptz      returns: score real
SELECT calibrated AS score
FROM fracture.prediction
JOIN fracture.radiograph r USING (radiograph_id)
WHERE version = :version AND calibrated IS NOT NULL
  AND r.received_at >= CAST(:until AS timestamptz) - interval '24 hours' AND r.received_at < :until
ORDER BY radiograph_id;
