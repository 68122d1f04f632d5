-- Whom the members of a data set belong to, as is known now.
-- parameters: snapshot_id text
-- returns: radiograph_id bigint, sha256 text, group_key text, patient_key text, study_key text
SELECT r.radiograph_id, r.sha256::text AS sha256, r.group_key, coalesce(told.patient_key, r.patient_key) AS patient_key,
       coalesce(told.study_key, r.study_key) AS study_key
FROM fracture.snapshot_member m
JOIN fracture.radiograph r USING (radiograph_id)
LEFT JOIN fracture.told_facts told USING (radiograph_id)
WHERE m.snapshot_id = :snapshot_id;
