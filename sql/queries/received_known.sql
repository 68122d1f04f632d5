-- Which of these listed objects have an outcome already.
-- parameters: rows jsonb      returns: object_key text, etag text
SELECT o.object_key, o.etag
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS listed (object_key text, etag text)
JOIN fracture.received_object o USING (object_key, etag);
