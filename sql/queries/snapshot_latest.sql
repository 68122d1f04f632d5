-- The newest frozen data set.
-- parameters: none      returns: snapshot_id text, created_at timestamptz, counts jsonb
SELECT snapshot_id::text AS snapshot_id, created_at, counts
FROM fracture.snapshot
ORDER BY created_at DESC, snapshot_id
LIMIT 1;
