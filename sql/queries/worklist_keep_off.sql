-- Remember that studies were kept off the worklist, and of how many images that was decided; not of one that has lost a
-- label since.
-- parameters: rows jsonb      returns: nothing
INSERT INTO fracture.unlisted_study AS u (study_key, images)
SELECT study_key, images
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (study_key text, images integer)
WHERE NOT EXISTS (
    SELECT FROM fracture.radiograph r
    WHERE r.study_key = x.study_key
      AND coalesce((SELECT l.value FROM fracture.standing_label l WHERE l.radiograph_id = r.radiograph_id)
                   NOT IN ('positive', 'negative'), true))
ORDER BY study_key
ON CONFLICT (study_key) DO UPDATE SET images = EXCLUDED.images, decided_at = now()
WHERE u.images <> EXCLUDED.images;
