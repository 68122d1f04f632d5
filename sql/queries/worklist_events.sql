-- Who did what to a study, oldest first.
-- parameters: study_key text      returns: event text, actor text, details jsonb, happened_at timestamptz
SELECT event, actor, details, happened_at
FROM fracture.worklist_event
WHERE study_key = :study_key
ORDER BY worklist_event_id;
