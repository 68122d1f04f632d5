-- A version's scores on an evaluated split.
-- parameters: version int, split text, rows jsonb      returns: nothing
INSERT INTO fracture.evaluation_score (version, radiograph_id, split, label, score)
SELECT :version, radiograph_id, :split, label, score
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (radiograph_id bigint, label smallint, score real)
ON CONFLICT (version, radiograph_id) DO NOTHING;
