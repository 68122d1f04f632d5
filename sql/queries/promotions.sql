-- Every change of the champion, oldest first.
-- parameters: none      returns: version int, event text
SELECT version, event
FROM fracture.model_event
WHERE event IN ('promoted', 'rolled_back')
ORDER BY model_event_id;
