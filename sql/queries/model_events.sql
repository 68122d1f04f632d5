-- What happened to a version, oldest first.
-- parameters: version int      returns: model_event_id bigint, version int, event text, actor text, reason text,
--             details jsonb, happened_at timestamptz
SELECT model_event_id, version, event, actor, reason, details, happened_at
FROM fracture.model_event
WHERE version = :version
ORDER BY model_event_id;
