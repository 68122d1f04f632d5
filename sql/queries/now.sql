-- The time, after whatever was waited for.
-- parameters: none      returns: now timestamptz
SELECT clock_timestamp() AS now;
