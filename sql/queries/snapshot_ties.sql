-- Whom the members of a data set belong to, as is known now.
-- parameters: snapshot_id text
-- returns: radiograph_id bigint, sha256 text, group_key text, patient_key text, study_key text
SELECT r.radiograph_id, r.sha256::text AS sha256, r.group_key, tie.patient_key, tie.study_key
FROM fracture.snapshot_member m
JOIN fracture.radiograph r USING (radiograph_id)
JOIN fracture.radiograph_tie tie USING (radiograph_id)
WHERE m.snapshot_id = :snapshot_id;
