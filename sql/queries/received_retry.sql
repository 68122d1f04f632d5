-- Take back the outcome of what was quarantined with this code, so that it is looked at as if it were new; the history
-- stays in fracture.retried_object.
-- parameters: code text      returns: received_object_id bigint
WITH taken_back AS (
    DELETE FROM fracture.received_object
    WHERE outcome = 'quarantined' AND code = :code
    RETURNING received_object_id, object_key, etag, size_bytes, code, sentence, received_at
)
INSERT INTO fracture.retried_object (received_object_id, object_key, etag, size_bytes, code, sentence, received_at)
SELECT received_object_id, object_key, etag, size_bytes, code, sentence, received_at
FROM taken_back
RETURNING received_object_id;
