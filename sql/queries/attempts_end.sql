-- Whoever looked at these objects is alive.
-- parameters: rows jsonb      returns: nothing
DELETE FROM fracture.attempted_object a
USING jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (object_key text, etag text)
WHERE a.object_key = x.object_key AND a.etag = x.etag;
