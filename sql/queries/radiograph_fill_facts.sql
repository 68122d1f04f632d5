-- Fill facts that a file did not carry from the labels of the radiograph: the best source first, then the oldest label.
-- What is in a snapshot stays as it was frozen; a study that is on the worklist keeps its key.
-- parameters: radiograph_ids bigint[]      returns: nothing
UPDATE fracture.radiograph r
SET patient_key = coalesce(r.patient_key, told.patient_key),
    study_key = CASE WHEN r.study_key = r.sha256 AND told.study_key IS NOT NULL
                          AND NOT EXISTS (SELECT FROM fracture.worklist w WHERE w.study_key = r.study_key)
                     THEN told.study_key ELSE r.study_key END,
    body_part = CASE r.body_part WHEN 'unknown' THEN coalesce(told.body_part, 'unknown') ELSE r.body_part END,
    laterality = coalesce(r.laterality, told.laterality),
    view = coalesce(r.view, told.view),
    hardware = coalesce(r.hardware, told.hardware)
FROM (
    SELECT radiograph_id,
           (array_agg(patient_key ORDER BY place, label_id) FILTER (WHERE patient_key IS NOT NULL))[1] AS patient_key,
           (array_agg(study_key ORDER BY place, label_id) FILTER (WHERE study_key IS NOT NULL))[1] AS study_key,
           (array_agg(body_part ORDER BY place, label_id)
               FILTER (WHERE body_part IS NOT NULL AND body_part <> 'unknown'))[1] AS body_part,
           (array_agg(laterality ORDER BY place, label_id) FILTER (WHERE laterality IS NOT NULL))[1] AS laterality,
           (array_agg(view ORDER BY place, label_id) FILTER (WHERE view IS NOT NULL))[1] AS view,
           (array_agg(hardware ORDER BY place, label_id) FILTER (WHERE hardware IS NOT NULL))[1] AS hardware
    FROM (SELECT *, array_position(ARRAY['adjudication', 'radiologist', 'report', 'dataset'], source) AS place
          FROM fracture.radiograph_label
          WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))) ranked
    GROUP BY radiograph_id
) told
WHERE r.radiograph_id = told.radiograph_id
  AND NOT EXISTS (SELECT FROM fracture.snapshot_member m WHERE m.radiograph_id = r.radiograph_id);
