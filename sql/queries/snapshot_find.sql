-- One frozen data set.
-- parameters: snapshot_id text      returns: snapshot_id text, plan jsonb, counts jsonb, as_of timestamptz,
--             created_at timestamptz
SELECT snapshot_id::text AS snapshot_id, plan, counts, as_of, created_at
FROM fracture.snapshot
WHERE snapshot_id = :snapshot_id;
