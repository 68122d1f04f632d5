-- A day's numbers.
-- parameters: day date, version int      returns: day date, version int, measures jsonb, created_at timestamptz
SELECT day, version, measures, created_at FROM fracture.drift_report WHERE day = :day AND version = :version;
