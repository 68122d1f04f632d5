-- Somebody acts on a study; the event is written with it.
-- parameters: study_key text, status text, holder text (NULL: nobody), event text, actor text, details jsonb
-- returns: worklist_event_id bigint
WITH changed AS (
    UPDATE fracture.worklist
    SET status = :status, holder = :holder, row_version = row_version + 1, updated_at = now()
    WHERE study_key = :study_key
    RETURNING study_key
)
INSERT INTO fracture.worklist_event (study_key, event, actor, details)
SELECT study_key, :event, :actor, CAST(:details AS jsonb) FROM changed
RETURNING worklist_event_id;
