-- Fill facts that a file did not carry from the labels of the radiograph. What is in a snapshot stays as it was frozen; a
-- study that is on the worklist keeps its key.
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
FROM fracture.told_facts told
WHERE told.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))
  AND r.radiograph_id = told.radiograph_id
  AND NOT EXISTS (SELECT FROM fracture.snapshot_member m WHERE m.radiograph_id = r.radiograph_id);
