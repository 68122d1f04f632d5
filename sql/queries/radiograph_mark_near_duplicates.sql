-- Link near duplicates to the nearest earlier radiograph.
-- parameters: rows jsonb      returns: nothing
UPDATE fracture.radiograph r
SET near_duplicate_of = x.near_duplicate_of
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (radiograph_id bigint, near_duplicate_of bigint)
WHERE r.radiograph_id = x.radiograph_id;
