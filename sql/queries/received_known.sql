-- Which of these listed objects have an outcome already. A label file that was replaced, and is listed again, has none:
-- what it says holds anew.
-- parameters: rows jsonb      returns: object_key text, etag text
SELECT o.object_key, o.etag
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS listed (object_key text, etag text)
JOIN fracture.received_object o USING (object_key, etag)
WHERE o.outcome <> 'labels'
   OR EXISTS (SELECT FROM fracture.label_file f WHERE f.received_object_id = o.received_object_id);
