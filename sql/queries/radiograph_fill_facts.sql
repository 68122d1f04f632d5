-- Fill facts that a file did not carry from what the labels of the radiograph tell now. Only a DICOM carries any: what is
-- known of a PNG or JPEG was told, and a corrected label corrects it. What is in a snapshot stays as it was frozen; a
-- study that is on the worklist keeps its key.
-- parameters: radiograph_ids bigint[]      returns: nothing
UPDATE fracture.radiograph r
SET patient_key = CASE WHEN r.media_type = 'application/dicom' THEN coalesce(r.patient_key, told.patient_key)
                       ELSE coalesce(told.patient_key, r.patient_key) END,
    study_key = CASE WHEN told.study_key IS NOT NULL AND (r.study_key = r.sha256 OR r.media_type <> 'application/dicom')
                          AND NOT EXISTS (SELECT FROM fracture.worklist w WHERE w.study_key = r.study_key)
                     THEN told.study_key ELSE r.study_key END,
    body_part = CASE WHEN r.media_type = 'application/dicom' AND r.body_part <> 'unknown' THEN r.body_part
                     ELSE coalesce(told.body_part, r.body_part) END,
    laterality = CASE WHEN r.media_type = 'application/dicom' THEN coalesce(r.laterality, told.laterality)
                      ELSE coalesce(told.laterality, r.laterality) END,
    view = CASE WHEN r.media_type = 'application/dicom' THEN coalesce(r.view, told.view) ELSE coalesce(told.view, r.view) END,
    hardware = coalesce(told.hardware, r.hardware)
FROM fracture.told_facts told
WHERE told.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))
  AND r.radiograph_id = told.radiograph_id
  AND NOT EXISTS (SELECT FROM fracture.snapshot_member m WHERE m.radiograph_id = r.radiograph_id);
