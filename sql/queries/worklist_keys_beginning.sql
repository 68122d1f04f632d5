-- The first two listed studies whose key begins so.
-- parameters: beginning text      returns: study_key text
SELECT study_key FROM fracture.worklist WHERE starts_with(study_key, :beginning) ORDER BY study_key LIMIT 2;
