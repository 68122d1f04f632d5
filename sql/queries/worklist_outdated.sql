-- Keys of studies whose row on the worklist is absent, or may be outdated: told apart by counts, without their images.
-- parameters: version int (NULL: no champion), list_labelled boolean (false: what was kept off the list is left out until
--             it has a further image), ranked_by text (the rules that place studies now), arrivals_only boolean (true:
--             only where an image came), later int[] (champions that came after the version)
-- returns: study_key text
SELECT study_key
FROM (SELECT study_key, count(*) AS images FROM fracture.radiograph GROUP BY study_key) here
LEFT JOIN fracture.worklist w USING (study_key)
LEFT JOIN fracture.unlisted_study u USING (study_key)
WHERE here.images > coalesce(w.images, CASE WHEN :list_labelled THEN 0 ELSE u.images END, 0)
   OR here.images < w.images AND w.status NOT IN ('reported', 'closed')  -- a label moved images to another study
UNION
SELECT study_key
FROM fracture.worklist
WHERE NOT :arrivals_only AND status NOT IN ('reported', 'closed')
  -- A score stays as it is: with the same version only what had none can have become another. What a later champion
  -- has scored does not become an earlier one's. A version that has no outcome yet for the image that is shown has not
  -- come to the study: while it scores an archive anew, most of the list is passed over here.
  AND (version IS DISTINCT FROM CAST(:version AS integer) AND (version = ANY(CAST(:later AS integer[]))) IS NOT TRUE
       AND EXISTS (SELECT FROM fracture.prediction p
                   WHERE p.version = :version AND p.radiograph_id = worklist.radiograph_id)
       OR images_unscored > 0 AND version IS NOT NULL OR ranked_by <> :ranked_by)
UNION
-- A label told the body part of an image later, or another one than it had told.
SELECT w.study_key
FROM fracture.worklist w
JOIN fracture.radiograph r USING (study_key)
WHERE NOT :arrivals_only AND w.status NOT IN ('reported', 'closed')
GROUP BY w.study_key
HAVING coalesce(array_agg(DISTINCT r.body_part ORDER BY r.body_part) FILTER (WHERE r.body_part <> 'unknown'), '{}')
       <> w.body_parts
ORDER BY study_key;
