-- Write the one outcome of each object; an object that has one keeps it.
-- parameters: rows jsonb      returns: received_object_id bigint, object_key text, etag text
INSERT INTO fracture.received_object
    (object_key, etag, size_bytes, outcome, radiograph_id, labels_read, code, sentence)
SELECT x.object_key, x.etag, x.size_bytes, x.outcome, r.radiograph_id, x.labels_read, x.code, x.sentence
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
    object_key text, etag text, size_bytes bigint, outcome text, sha256 text, labels_read integer, code text,
    sentence text)
LEFT JOIN fracture.radiograph r ON r.sha256 = x.sha256
ON CONFLICT (object_key, etag) DO NOTHING
RETURNING received_object_id, object_key, etag;
