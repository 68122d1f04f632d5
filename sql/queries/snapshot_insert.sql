-- Freeze a data set, once.
-- parameters: snapshot_id text, plan jsonb, counts jsonb, as_of timestamptz
-- returns: snapshot_id text where it is new
INSERT INTO fracture.snapshot (snapshot_id, plan, counts, as_of)
VALUES (:snapshot_id, CAST(:plan AS jsonb), CAST(:counts AS jsonb), :as_of)
ON CONFLICT (snapshot_id) DO NOTHING
RETURNING snapshot_id::text AS snapshot_id;
