-- Take back the outcomes of those listed objects that were quarantined with this code, so that they are looked at as if
-- they were new; the history stays in fracture.retried_object.
-- parameters: code text, rows jsonb      returns: received_object_id bigint
WITH taken_back AS (
    DELETE FROM fracture.received_object o
    USING jsonb_to_recordset(CAST(:rows AS jsonb)) AS listed (object_key text, etag text)
    WHERE o.object_key = listed.object_key AND o.etag = listed.etag AND o.outcome = 'quarantined' AND o.code = :code
    RETURNING o.received_object_id, o.object_key, o.etag, o.size_bytes, o.code, o.sentence, o.received_at
)
INSERT INTO fracture.retried_object (received_object_id, object_key, etag, size_bytes, code, sentence, received_at)
SELECT received_object_id, object_key, etag, size_bytes, code, sentence, received_at
FROM taken_back
RETURNING received_object_id;
