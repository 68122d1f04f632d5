-- A version of a label file that was read before is back, and cannot be read now: it was looked at, and what holds goes on.
-- parameters: object_key text, etag text      returns: nothing
UPDATE fracture.label_file f
SET received_object_id = o.received_object_id, read_at = clock_timestamp()
FROM fracture.received_object o
WHERE o.object_key = :object_key AND o.etag = :etag AND o.outcome = 'labels' AND f.object_key = o.object_key;
