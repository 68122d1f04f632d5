-- A day's numbers; a later run of the same day replaces them.
-- parameters: day date, version int, measures jsonb      returns: nothing
INSERT INTO fracture.drift_report AS d (day, version, measures)
VALUES (:day, :version, CAST(:measures AS jsonb))
ON CONFLICT (day, version) DO UPDATE SET measures = EXCLUDED.measures, created_at = now()
WHERE d.measures IS DISTINCT FROM EXCLUDED.measures;
