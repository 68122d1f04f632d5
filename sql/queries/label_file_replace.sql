-- From now on this version of a label file holds, and what other versions of it told is over.
-- parameters: object_key text, received_object_id bigint, told_from timestamptz      returns: nothing
WITH over AS (
    UPDATE fracture.label_told t
    SET told_until = :told_from
    FROM fracture.received_object o
    WHERE o.received_object_id = t.received_object_id AND o.object_key = :object_key AND o.outcome = 'labels'
      AND o.received_object_id <> :received_object_id AND t.told_until IS NULL
)
INSERT INTO fracture.label_file (object_key, received_object_id)
VALUES (:object_key, :received_object_id)
ON CONFLICT (object_key) DO UPDATE SET received_object_id = EXCLUDED.received_object_id, read_at = clock_timestamp();
