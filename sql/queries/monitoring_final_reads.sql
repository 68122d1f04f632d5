-- The last final read of each study that was read in a span of time, and what the AI showed its reader, whichever version
-- it was.
-- parameters: since timestamptz, until timestamptz      returns: ai_priority text, value text
SELECT ai_priority, value
FROM fracture.final_read
WHERE happened_at >= :since AND happened_at < :until
ORDER BY study_key;
