-- Whose labels a data set was frozen with, and what they say.
-- parameters: snapshot_id text      returns: source text, meaning text, positive bigint, negative bigint
SELECT l.source, l.meaning, count(*) FILTER (WHERE m.label = 1) AS positive, count(*) FILTER (WHERE m.label = 0) AS negative
FROM fracture.snapshot s
JOIN fracture.snapshot_member m USING (snapshot_id)
JOIN fracture.standing_labels(s.as_of) l USING (radiograph_id)
WHERE s.snapshot_id = :snapshot_id
GROUP BY l.source, l.meaning
ORDER BY count(*) DESC, l.source, l.meaning;
