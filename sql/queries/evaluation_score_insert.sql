-- A version's scores on an evaluated split; none of what was erased meanwhile.
-- parameters: version int, split text, rows jsonb      returns: nothing
INSERT INTO fracture.evaluation_score (version, radiograph_id, split, label, score)
SELECT :version, x.radiograph_id, :split, x.label, x.score
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (radiograph_id bigint, label smallint, score real)
JOIN fracture.radiograph r USING (radiograph_id)
ON CONFLICT (version, radiograph_id) DO NOTHING;
