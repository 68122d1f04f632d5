-- Delete every row about these, after the erasure has been recorded. Pictures of others that were near duplicates of
-- one of them stay together, behind the first that is left. A study that shows one of them and has others is listed
-- anew.
-- parameters: radiograph_ids bigint[], study_keys text[], received_object_ids bigint[], label_ids bigint[],
--             object_keys text[] (of the inbox)
-- returns: nothing
WITH image AS (
    SELECT unnest(CAST(:radiograph_ids AS bigint[])) AS radiograph_id
), study AS (
    SELECT unnest(CAST(:study_keys AS text[])) AS study_key
    UNION
    SELECT study_key FROM fracture.worklist WHERE radiograph_id IN (SELECT radiograph_id FROM image)
), gone_events AS (
    DELETE FROM fracture.worklist_event WHERE study_key IN (SELECT study_key FROM study)
), gone_unlisted AS (
    DELETE FROM fracture.unlisted_study WHERE study_key IN (SELECT study_key FROM study)
), gone_items AS (
    DELETE FROM fracture.worklist WHERE study_key IN (SELECT study_key FROM study)
), gone_retried_predictions AS (
    DELETE FROM fracture.retried_prediction WHERE radiograph_id IN (SELECT radiograph_id FROM image)
), gone_predictions AS (
    DELETE FROM fracture.prediction WHERE radiograph_id IN (SELECT radiograph_id FROM image)
), gone_scores AS (
    DELETE FROM fracture.evaluation_score WHERE radiograph_id IN (SELECT radiograph_id FROM image)
), gone_members AS (
    DELETE FROM fracture.snapshot_member WHERE radiograph_id IN (SELECT radiograph_id FROM image)
), gone_told AS (
    DELETE FROM fracture.label_told
    WHERE label_id = ANY(CAST(:label_ids AS bigint[]))
       OR received_object_id = ANY(CAST(:received_object_ids AS bigint[]))
), gone_labels AS (
    DELETE FROM fracture.label WHERE label_id = ANY(CAST(:label_ids AS bigint[]))
), gone_attempts AS (
    DELETE FROM fracture.attempted_object WHERE object_key = ANY(CAST(:object_keys AS text[]))
), gone_retries AS (
    DELETE FROM fracture.retried_object WHERE object_key = ANY(CAST(:object_keys AS text[]))
), gone_objects AS (
    DELETE FROM fracture.received_object WHERE received_object_id = ANY(CAST(:received_object_ids AS bigint[]))
), left_over AS (
    SELECT r.radiograph_id,
           CASE WHEN r.cluster_id IN (SELECT radiograph_id FROM image)
                THEN min(r.radiograph_id) OVER (PARTITION BY r.cluster_id)
                ELSE r.cluster_id END AS first_id
    FROM fracture.radiograph r
    WHERE (r.cluster_id IN (SELECT radiograph_id FROM image)
           OR r.near_duplicate_of IN (SELECT radiograph_id FROM image))
      AND r.radiograph_id NOT IN (SELECT radiograph_id FROM image)
), put_together AS (
    UPDATE fracture.radiograph r
    SET cluster_id = nullif(l.first_id, r.radiograph_id),
        near_duplicate_of = CASE WHEN r.near_duplicate_of IN (SELECT radiograph_id FROM image)
                                 THEN nullif(l.first_id, r.radiograph_id)
                                 ELSE r.near_duplicate_of END
    FROM left_over l
    WHERE r.radiograph_id = l.radiograph_id
)
DELETE FROM fracture.radiograph
WHERE radiograph_id IN (SELECT radiograph_id FROM image);
