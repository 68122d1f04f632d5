-- Everything that is kept of a study, of a patient or of an object of the inbox (NULL: not asked for). Studies are whole:
-- an object stands for the study of its radiograph. Of what was quarantined, that which the labels found here name.
-- parameters: study_key text, patient_key text, object_key text
-- returns: one row: radiographs jsonb ([{radiograph_id, sha256, object_key}, ...]), study_keys text[],
--          patient_keys text[] (whom the images belong to), others bigint[] (radiographs of others that labels of this
--          patient speak of now), snapshots text[] (that hold them), received jsonb ([{received_object_id, object_key,
--          etag}, ...]), labels jsonb ([{label_id, subject_kind, subject, scope, patient_key, study_key}, ...]),
--          final_reads bigint, pictures jsonb ({object key of an archive: [radiograph_id, ...]}),
--          learned jsonb ([{version, split, radiographs}, ...]),
--          near_duplicates bigint[] (radiographs of others that look the same)
WITH whose AS MATERIALIZED (
    -- What holds of each image: as its DICOM says, or the labels that hold now.
    SELECT r.radiograph_id, coalesce(told.patient_key, r.patient_key) AS patient_key,
           coalesce(told.study_key, r.study_key) AS told_study
    FROM fracture.radiograph r LEFT JOIN fracture.told_facts told USING (radiograph_id)
), named AS MATERIALIZED (
    SELECT o.received_object_id, o.object_key, o.etag, o.radiograph_id
    FROM fracture.received_object o
    WHERE o.object_key = :object_key AND o.outcome <> 'labels'
    ORDER BY o.received_object_id DESC                      -- who had the name before is somebody else
    LIMIT 1
), asked AS MATERIALIZED (
    SELECT r.study_key
    FROM whose w JOIN fracture.radiograph r USING (radiograph_id)
    WHERE w.patient_key = :patient_key OR w.told_study = :study_key OR r.study_key = :study_key
    UNION
    SELECT r.study_key FROM named JOIN fracture.radiograph r USING (radiograph_id)
), image AS MATERIALIZED (
    SELECT r.radiograph_id, r.sha256::text AS sha256, r.object_key, r.study_key, r.cluster_id, w.patient_key
    FROM whose w JOIN fracture.radiograph r USING (radiograph_id)
    WHERE r.study_key IN (SELECT study_key FROM asked) OR w.told_study IN (SELECT study_key FROM asked)
), about AS MATERIALIZED (
    -- A file's name may be another image's too, below another folder, or at another time.
    SELECT s.label_id, bool_or(s.radiograph_id IN (SELECT radiograph_id FROM image)) AS of_these,
           bool_or(s.radiograph_id NOT IN (SELECT radiograph_id FROM image)) AS of_others
    FROM fracture.labelled_radiograph s
    GROUP BY s.label_id
), opinion AS MATERIALIZED (
    SELECT l.label_id, l.subject_kind, l.subject, l.scope, l.patient_key, l.study_key
    FROM fracture.label l
    WHERE l.label_id IN (SELECT label_id FROM about WHERE of_these AND NOT of_others)
       OR l.patient_key = :patient_key
       OR (l.subject_kind = 'study_key' AND l.subject IN (SELECT study_key FROM image))
       OR (l.subject_kind = 'object_key' AND l.subject = :object_key
           AND l.label_id NOT IN (SELECT label_id FROM about WHERE of_others))
), object AS MATERIALIZED (
    SELECT o.received_object_id, o.object_key, o.etag
    FROM fracture.received_object o
    WHERE o.radiograph_id IN (SELECT radiograph_id FROM image)
       OR o.received_object_id IN (SELECT received_object_id FROM named)
       OR (o.outcome = 'quarantined' AND EXISTS (
               SELECT FROM opinion l
               WHERE (l.subject_kind = 'object_key' AND l.subject = o.object_key)
                  OR (l.subject_kind = 'file_name' AND l.subject = o.file_name AND starts_with(o.object_key, l.scope))))
), picture AS (
    SELECT drawn.object_key, jsonb_agg(DISTINCT p.radiograph_id) AS radiograph_ids
    FROM fracture.prediction p
    CROSS JOIN LATERAL (VALUES (p.heat_map_key), (p.overlay_key)) AS drawn (object_key)
    WHERE p.radiograph_id IN (SELECT radiograph_id FROM image) AND drawn.object_key IS NOT NULL
    GROUP BY drawn.object_key
), learned AS (
    SELECT v.version, m.split, count(*) AS radiographs
    FROM fracture.snapshot_member m JOIN fracture.model_version v USING (snapshot_id)
    WHERE m.radiograph_id IN (SELECT radiograph_id FROM image)
    GROUP BY v.version, m.split
)
SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object('radiograph_id', radiograph_id, 'sha256', sha256,
                                                     'object_key', object_key) ORDER BY radiograph_id), '[]')
        FROM image) AS radiographs,
       ARRAY(SELECT DISTINCT study_key FROM image ORDER BY study_key) AS study_keys,
       ARRAY(SELECT DISTINCT patient_key FROM image WHERE patient_key IS NOT NULL ORDER BY patient_key) AS patient_keys,
       ARRAY(SELECT DISTINCT s.radiograph_id
             FROM fracture.radiograph_labels('infinity') s
             WHERE s.label_id IN (SELECT label_id FROM opinion)
               AND s.radiograph_id NOT IN (SELECT radiograph_id FROM image)
             ORDER BY s.radiograph_id) AS others,
       ARRAY(SELECT DISTINCT snapshot_id::text
             FROM fracture.snapshot_member
             WHERE radiograph_id IN (SELECT radiograph_id FROM image) ORDER BY snapshot_id::text) AS snapshots,
       (SELECT coalesce(jsonb_agg(to_jsonb(object) ORDER BY received_object_id), '[]') FROM object) AS received,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('label_id', label_id, 'subject_kind', subject_kind,
                                                     'subject', subject, 'scope', scope,
                                                     'patient_key', patient_key, 'study_key', study_key)
                                 ORDER BY label_id), '[]')
        FROM opinion) AS labels,
       (SELECT count(*) FROM fracture.worklist_event
        WHERE event = 'reported' AND study_key IN (SELECT study_key FROM image)) AS final_reads,
       (SELECT coalesce(jsonb_object_agg(object_key, radiograph_ids), '{}') FROM picture) AS pictures,
       (SELECT coalesce(jsonb_agg(to_jsonb(learned) ORDER BY version, split), '[]') FROM learned) AS learned,
       ARRAY(SELECT r.radiograph_id
             FROM fracture.radiograph r
             WHERE r.radiograph_id NOT IN (SELECT radiograph_id FROM image)
               AND coalesce(r.cluster_id, r.radiograph_id) IN (SELECT coalesce(cluster_id, radiograph_id) FROM image)
             ORDER BY r.radiograph_id) AS near_duplicates;
