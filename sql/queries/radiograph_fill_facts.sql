-- Fill what labels tell of radiographs into them. What is in a snapshot stays as it was frozen; a study that is on the
-- worklist keeps its key.
-- parameters: radiograph_ids bigint[]      returns: nothing
UPDATE fracture.radiograph r
SET patient_key = told.patient_key,
    study_key = CASE WHEN EXISTS (SELECT FROM fracture.worklist w WHERE w.study_key = r.study_key)
                     THEN r.study_key ELSE told.study_key END,
    body_part = told.body_part,
    laterality = told.laterality,
    view = told.view,
    hardware = told.hardware
FROM fracture.told_facts told
WHERE told.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))
  AND r.radiograph_id = told.radiograph_id
  AND NOT EXISTS (SELECT FROM fracture.snapshot_member m WHERE m.radiograph_id = r.radiograph_id);
