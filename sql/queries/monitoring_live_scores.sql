-- A version's calibrated scores of one day (UTC).
-- parameters: version int, day date      returns: score real
SELECT calibrated AS score
FROM fracture.prediction
WHERE version = :version AND calibrated IS NOT NULL
  AND scored_at >= CAST(:day AS date)::timestamp AT TIME ZONE 'UTC'
  AND scored_at < (CAST(:day AS date) + 1)::timestamp AT TIME ZONE 'UTC'
ORDER BY radiograph_id;
