-- Hold these studies' rows of the worklist until the transaction ends: nobody acts on them meanwhile.
-- parameters: study_keys text[]      returns: study_key text
SELECT study_key
FROM fracture.worklist
WHERE study_key = ANY(CAST(:study_keys AS text[]))
ORDER BY study_key
FOR UPDATE;
