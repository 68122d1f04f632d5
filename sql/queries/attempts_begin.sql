-- These objects are about to be looked at.
-- parameters: rows jsonb      returns: nothing
INSERT INTO fracture.attempted_object AS a (object_key, etag, attempts)
SELECT object_key, etag, 1 FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (object_key text, etag text)
ON CONFLICT (object_key, etag) DO UPDATE SET attempts = a.attempts + 1;
