-- Something that a person must look at; while it is open it is not raised again.
-- parameters: kind text, subject text, sentence text      returns: alert_id bigint where it is new
INSERT INTO fracture.alert (kind, subject, sentence)
VALUES (:kind, :subject, :sentence)
ON CONFLICT (kind, subject) WHERE settled_at IS NULL DO NOTHING
RETURNING alert_id;
