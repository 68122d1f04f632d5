-- From arrival to the first final read, of studies first read in the 24 hours before a time, by ordered
-- priority.
-- parameters: until timestamptz      returns: ordered_priority text, minutes double precision
SELECT w.ordered_priority, extract(epoch FROM first_read.happened_at - w.arrived_at)::double precision / 60 AS minutes
FROM fracture.worklist w
JOIN (SELECT study_key, min(happened_at) AS happened_at FROM fracture.worklist_event
      WHERE event = 'reported' GROUP BY study_key) first_read USING (study_key)
WHERE first_read.happened_at >= CAST(:until AS timestamptz) - interval '24 hours' AND first_read.happened_at < :until
ORDER BY w.ordered_priority, minutes;
