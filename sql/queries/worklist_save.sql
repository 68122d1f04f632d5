-- List studies, or rank them anew. What people reported or closed, and what would not change, stays as it is; a study
-- to or from which a label moved images since they were read is left to the next ranking.
-- parameters: rows jsonb      returns: study_key text
WITH saved AS (
    INSERT INTO fracture.worklist AS w
        (study_key, ordered_priority, ai_priority, score, radiograph_id, version, body_part, body_parts, images,
         images_unscored, raised, prioritised, arrived_at, due_at, ranked_by)
    SELECT study_key, ordered_priority, ai_priority, score, radiograph_id, version, body_part, body_parts, images,
           images_unscored, raised, prioritised, arrived_at, due_at, ranked_by
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
        study_key text, ordered_priority text, ai_priority text, score real, radiograph_id bigint, version integer,
        body_part text, body_parts text[], images integer, images_unscored integer, raised boolean, prioritised boolean,
        arrived_at timestamptz, due_at timestamptz, ranked_by text)
    WHERE x.images = (SELECT count(*) FROM fracture.radiograph r WHERE r.study_key = x.study_key)
      AND x.study_key = (SELECT r.study_key FROM fracture.radiograph r WHERE r.radiograph_id = x.radiograph_id)
    ORDER BY study_key
    ON CONFLICT (study_key) DO UPDATE
    SET ordered_priority = EXCLUDED.ordered_priority, ai_priority = EXCLUDED.ai_priority, score = EXCLUDED.score,
        radiograph_id = EXCLUDED.radiograph_id, version = EXCLUDED.version, body_part = EXCLUDED.body_part,
        body_parts = EXCLUDED.body_parts, images = EXCLUDED.images, images_unscored = EXCLUDED.images_unscored,
        raised = EXCLUDED.raised, prioritised = EXCLUDED.prioritised, arrived_at = EXCLUDED.arrived_at,
        due_at = EXCLUDED.due_at, ranked_by = EXCLUDED.ranked_by, row_version = w.row_version + 1, updated_at = now()
    WHERE w.status NOT IN ('reported', 'closed')
      AND (w.ordered_priority, w.ai_priority, w.score, w.radiograph_id, w.version, w.body_parts, w.images,
           w.images_unscored, w.raised, w.prioritised, w.arrived_at, w.due_at)
          IS DISTINCT FROM
          (EXCLUDED.ordered_priority, EXCLUDED.ai_priority, EXCLUDED.score, EXCLUDED.radiograph_id, EXCLUDED.version,
           EXCLUDED.body_parts, EXCLUDED.images, EXCLUDED.images_unscored, EXCLUDED.raised, EXCLUDED.prioritised,
           EXCLUDED.arrived_at, EXCLUDED.due_at)
    RETURNING w.study_key, w.row_version, w.ai_priority, w.score, w.version, w.images
)
INSERT INTO fracture.worklist_event (study_key, event, actor, details)
SELECT study_key, CASE row_version WHEN 1 THEN 'listed' ELSE 're-ranked' END, 'fracture',
       jsonb_build_object('ai_priority', ai_priority, 'score', score, 'version', version, 'images', images)
FROM saved
RETURNING study_key;
