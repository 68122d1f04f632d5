-- What a version would have shown of the studies of its evaluated split: their highest score, and whether an image is
-- labelled a fracture.
-- parameters: version int      returns: score real, positive boolean
SELECT max(e.score) AS score, bool_or(e.label = 1) AS positive
FROM fracture.evaluation_score e
JOIN fracture.radiograph r USING (radiograph_id)
WHERE e.version = :version
GROUP BY r.study_key
ORDER BY r.study_key;
