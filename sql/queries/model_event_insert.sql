-- Something happened to a version. The same decision (event, actor, reason, details) is not written twice; a version is
-- registered once, and judged once against each champion.
-- parameters: version int, event text, actor text, reason text, details jsonb      returns: model_event_id bigint
INSERT INTO fracture.model_event (version, event, actor, reason, details)
SELECT :version, :event, :actor, :reason, CAST(:details AS jsonb)
WHERE NOT EXISTS (
    SELECT FROM fracture.model_event
    WHERE version = :version AND event = :event
      AND (event = 'registered'
           OR (event = 'judged' AND details -> 'champion' = CAST(:details AS jsonb) -> 'champion')
           OR (event IN ('approved', 'rejected') AND actor = :actor AND reason = :reason
               AND details = CAST(:details AS jsonb))))
RETURNING model_event_id;
