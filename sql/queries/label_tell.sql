-- Write down which received objects tell these opinions now.
-- parameters: rows jsonb, told_from timestamptz      returns: nothing
INSERT INTO fracture.label_told (label_id, received_object_id, told_from)
SELECT DISTINCT l.label_id, x.received_object_id, CAST(:told_from AS timestamptz)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (content_hash text, received_object_id bigint)
JOIN fracture.label l ON l.content_hash = x.content_hash
WHERE x.received_object_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM fracture.label_told t
                  WHERE t.label_id = l.label_id AND t.received_object_id = x.received_object_id
                    AND t.told_until IS NULL);
