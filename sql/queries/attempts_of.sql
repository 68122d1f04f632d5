-- How often a process began with these listed objects and was killed.
-- parameters: rows jsonb      returns: object_key text, etag text, attempts integer
SELECT a.object_key, a.etag, a.attempts
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS listed (object_key text, etag text)
JOIN fracture.attempted_object a USING (object_key, etag);
