-- What could not be used, and why, newest first. The object keys may identify a person: do not pass them on.
-- parameters: none      returns: the columns of fracture.quarantine
SELECT code, sentence, received_at, size_bytes, object_key, etag, received_object_id
FROM fracture.quarantine
ORDER BY received_at DESC, received_object_id DESC;
