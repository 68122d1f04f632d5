-- A version's scores on its evaluated split, with what they are grouped and told apart by.
-- parameters: version int      returns: radiograph_id bigint, group_key text, label int, score real, subgroups jsonb
SELECT e.radiograph_id, r.group_key, e.label, e.score, to_jsonb(g) - 'radiograph_id' AS subgroups
FROM fracture.evaluation_score e
JOIN fracture.radiograph r USING (radiograph_id)
JOIN fracture.radiograph_subgroup g USING (radiograph_id)
WHERE e.version = :version
ORDER BY e.radiograph_id;
