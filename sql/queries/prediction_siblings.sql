-- Images outside of a range that the version has no outcome for, of studies that also have such an image in the range,
-- newest first. Up to complete_up_to all have one.
-- parameters: version int, complete_up_to bigint, first bigint, last bigint      returns: radiograph_id bigint
WITH study AS (
    SELECT DISTINCT r.study_key
    FROM fracture.radiograph r
    LEFT JOIN fracture.prediction p
        ON p.version = :version AND p.radiograph_id = r.radiograph_id AND p.radiograph_id > :complete_up_to
    WHERE r.radiograph_id > :complete_up_to
      AND r.radiograph_id BETWEEN :first AND :last
      AND p.radiograph_id IS NULL
)
SELECT r.radiograph_id
FROM study
JOIN fracture.radiograph r USING (study_key)
WHERE r.radiograph_id > :complete_up_to
  AND r.radiograph_id NOT BETWEEN :first AND :last
  AND NOT EXISTS (SELECT FROM fracture.prediction p
                  WHERE p.version = :version AND p.radiograph_id = r.radiograph_id)
ORDER BY r.radiograph_id DESC;
