-- How many of these radiographs were on the worklist, or in a snapshot, before a label told which study they belong to:
-- they stay studies of their own.
-- parameters: radiograph_ids bigint[]      returns: radiographs bigint
SELECT count(*) AS radiographs
FROM fracture.told_facts told
JOIN fracture.radiograph r USING (radiograph_id)
WHERE told.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[])) AND told.study_key <> r.study_key;
