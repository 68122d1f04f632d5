-- Link near duplicates to the nearest earlier radiograph, and to the first of their cluster.
-- parameters: rows jsonb (near_duplicate_of NULL: it stays)      returns: nothing
UPDATE fracture.radiograph r
SET near_duplicate_of = coalesce(x.near_duplicate_of, r.near_duplicate_of),
    cluster_id = x.cluster_id
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (radiograph_id bigint, near_duplicate_of bigint, cluster_id bigint)
WHERE r.radiograph_id = x.radiograph_id;
