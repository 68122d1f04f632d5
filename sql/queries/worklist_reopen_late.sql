-- A new image of a study that people reported or closed: it is open again, so that somebody looks at the image.
-- parameters: rows jsonb      returns: study_key text
WITH reopened AS (
    UPDATE fracture.worklist w
    SET status = 'reopened', holder = NULL, row_version = w.row_version + 1, updated_at = now()
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (study_key text, images integer)
    WHERE w.study_key = x.study_key AND w.status IN ('reported', 'closed') AND x.images > w.images
      AND x.images = (SELECT count(*) FROM fracture.radiograph r WHERE r.study_key = x.study_key)
    RETURNING w.study_key, x.images - w.images AS new_images
)
INSERT INTO fracture.worklist_event (study_key, event, actor, details)
SELECT study_key, 'reopened', 'fracture', jsonb_build_object('new_images', new_images) FROM reopened
RETURNING study_key;
