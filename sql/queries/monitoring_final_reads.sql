-- The last final read of each study that showed the reader a score of this version.
-- parameters: version int      returns: score real, operating_point text, value text
SELECT score, ai_priority AS operating_point, value
FROM fracture.final_read
WHERE model_version = :version AND score IS NOT NULL
ORDER BY study_key;
