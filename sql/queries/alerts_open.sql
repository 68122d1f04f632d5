-- What a person must look at, oldest first.
-- parameters: none      returns: alert_id bigint, kind text, subject text, sentence text, raised_at timestamptz
SELECT alert_id, kind, subject, sentence, raised_at
FROM fracture.alert
WHERE settled_at IS NULL
ORDER BY raised_at, alert_id;
