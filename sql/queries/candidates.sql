-- The radiographs with a standing label that were received and labelled by a time, for a snapshot.
-- parameters: as_of timestamptz      returns: radiograph_id bigint, sha256 text, group_key text, patient_key text,
--             study_key text, near_duplicate_of text (a sha256), label text
SELECT r.radiograph_id, r.sha256::text AS sha256, r.group_key, r.patient_key, r.study_key,
       earlier.sha256::text AS near_duplicate_of, s.value AS label
FROM fracture.standing_labels(:as_of) s
JOIN fracture.radiograph r USING (radiograph_id)
LEFT JOIN fracture.radiograph earlier ON earlier.radiograph_id = r.near_duplicate_of
WHERE r.received_at <= :as_of
ORDER BY r.sha256;
