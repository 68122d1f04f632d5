-- Note the rules that placed open studies which stay where they are under them.
-- parameters: rows jsonb      returns: nothing
UPDATE fracture.worklist w
SET ranked_by = x.ranked_by
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (study_key text, ranked_by text)
WHERE w.study_key = x.study_key AND w.status NOT IN ('reported', 'closed') AND w.ranked_by <> x.ranked_by;
