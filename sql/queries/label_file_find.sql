-- A version of a label file that was read before.
-- parameters: object_key text, etag text      returns: received_object_id bigint, holds boolean (no other came after it)
SELECT o.received_object_id, f.received_object_id IS NOT NULL AS holds
FROM fracture.received_object o
LEFT JOIN fracture.label_file f USING (received_object_id)
WHERE o.object_key = :object_key AND o.etag = :etag AND o.outcome = 'labels';
