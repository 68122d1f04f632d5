-- Somebody acts on a study that is as they saw it; the event is written with it.
-- parameters: study_key text, row_version int (that they saw), images int (that they read; NULL: none), status text, holder text (NULL: nobody), event text, actor text, details jsonb
-- returns: worklist_event_id bigint
WITH changed AS (
    UPDATE fracture.worklist
    SET status = :status, holder = :holder, images = greatest(images, CAST(:images AS integer)),
        row_version = row_version + 1, updated_at = now()
    WHERE study_key = :study_key AND row_version = :row_version
    RETURNING study_key
)
INSERT INTO fracture.worklist_event (study_key, event, actor, details)
SELECT study_key, :event, :actor, CAST(:details AS jsonb) FROM changed
RETURNING worklist_event_id;
