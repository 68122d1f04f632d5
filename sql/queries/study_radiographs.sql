-- The radiographs of a study.
-- parameters: study_key text      returns: radiograph_id bigint, sha256 text
SELECT radiograph_id, sha256::text AS sha256 FROM fracture.radiograph WHERE study_key = :study_key ORDER BY radiograph_id;
