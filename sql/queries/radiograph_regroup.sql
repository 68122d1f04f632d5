-- Bring the groups of radiographs, and of their near duplicates, up to what is known: patient, else study, else the
-- group of the image that it nearly repeats, else itself. Repeated until nothing changes. What is in a snapshot keeps
-- its group.
-- parameters: radiograph_ids bigint[]      returns: radiograph_id bigint
UPDATE fracture.radiograph r
SET group_key = belongs.group_key
FROM (
    SELECT d.radiograph_id,
           CASE WHEN d.patient_key IS NOT NULL THEN 'patient:' || d.patient_key
                WHEN d.study_key <> d.sha256 THEN 'study:' || d.study_key
                ELSE coalesce(earlier.group_key, 'image:' || d.sha256) END AS group_key
    FROM fracture.radiograph d LEFT JOIN fracture.radiograph earlier ON earlier.radiograph_id = d.near_duplicate_of
    WHERE d.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]))
       OR d.near_duplicate_of = ANY(CAST(:radiograph_ids AS bigint[]))
) belongs
WHERE r.radiograph_id = belongs.radiograph_id
  AND r.group_key <> belongs.group_key
  AND NOT EXISTS (SELECT FROM fracture.snapshot_member m WHERE m.radiograph_id = r.radiograph_id)
RETURNING r.radiograph_id;
