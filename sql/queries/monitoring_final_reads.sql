-- The last final read of each study that was read in a span of time, and what the AI showed its reader.
-- parameters: since timestamptz, until timestamptz      returns: version int, shown text, finding text
SELECT model_version AS version, ai_priority AS shown, value AS finding
FROM fracture.final_read
WHERE happened_at >= :since AND happened_at < :until
ORDER BY study_key;
