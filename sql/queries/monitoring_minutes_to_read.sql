-- From arrival to the first final read, of studies read on one day (UTC), by ordered priority.
-- parameters: day date      returns: ordered_priority text, minutes double precision
SELECT w.ordered_priority, extract(epoch FROM first_read.happened_at - w.arrived_at)::double precision / 60 AS minutes
FROM fracture.worklist w
JOIN (SELECT study_key, min(happened_at) AS happened_at FROM fracture.worklist_event
      WHERE event = 'reported' GROUP BY study_key) first_read USING (study_key)
WHERE first_read.happened_at >= CAST(:day AS date)::timestamp AT TIME ZONE 'UTC'
  AND first_read.happened_at < (CAST(:day AS date) + 1)::timestamp AT TIME ZONE 'UTC'
ORDER BY w.ordered_priority, minutes;
