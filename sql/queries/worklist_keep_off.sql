-- Remember that studies were kept off the worklist, and of how many images that was decided.
-- parameters: rows jsonb      returns: nothing
INSERT INTO fracture.unlisted_study AS u (study_key, images)
SELECT study_key, images
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (study_key text, images integer)
ORDER BY study_key
ON CONFLICT (study_key) DO UPDATE SET images = EXCLUDED.images, decided_at = now()
WHERE u.images <> EXCLUDED.images;
