-- Studies whose final read is positive and whose score, as the reader saw it, was below both operating points.
-- parameters: none      returns: study_key text, read_at timestamptz, reader text, body_part text, score real,
--             model_version int, radiograph_id bigint
SELECT study_key, happened_at AS read_at, actor AS reader, body_part, score, model_version, radiograph_id
FROM fracture.final_read
WHERE value = 'positive' AND ai_priority = 'below'
ORDER BY happened_at DESC;
