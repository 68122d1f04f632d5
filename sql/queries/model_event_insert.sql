-- Something happened to a version. The same decision (event, actor, reason, details) is not written twice, and a
-- version is registered and judged once.
-- parameters: version int, event text, actor text, reason text, details jsonb      returns: model_event_id bigint
INSERT INTO fracture.model_event (version, event, actor, reason, details)
SELECT :version, :event, :actor, :reason, CAST(:details AS jsonb)
WHERE NOT EXISTS (
    SELECT FROM fracture.model_event
    WHERE version = :version AND event = :event
      AND (event IN ('registered', 'judged')
           OR (event IN ('approved', 'rejected') AND actor = :actor AND reason = :reason
               AND details = CAST(:details AS jsonb))))
RETURNING model_event_id;
