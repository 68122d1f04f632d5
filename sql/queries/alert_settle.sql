-- The thing is no longer so.
-- parameters: kind text, subject text      returns: alert_id bigint where it was open
UPDATE fracture.alert SET settled_at = now()
WHERE kind = :kind AND subject = :subject AND settled_at IS NULL
RETURNING alert_id;
