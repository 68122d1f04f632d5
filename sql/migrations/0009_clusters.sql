-- The first picture of each cluster of near-duplicates, by way of every pair within the bound: `near_duplicate_of` names
-- the nearest earlier picture alone, and a picture between two others ties them together. NULL: itself.
ALTER TABLE fracture.radiograph ADD COLUMN cluster_id bigint REFERENCES fracture.radiograph;
CREATE INDEX radiograph_cluster ON fracture.radiograph (cluster_id) WHERE cluster_id IS NOT NULL;

-- What is here is put together by the pairs that were kept.
WITH RECURSIVE chain AS (
    SELECT radiograph_id, near_duplicate_of AS earlier_id
    FROM fracture.radiograph
    WHERE near_duplicate_of IS NOT NULL
    UNION ALL
    SELECT c.radiograph_id, e.near_duplicate_of
    FROM chain c
    JOIN fracture.radiograph e ON e.radiograph_id = c.earlier_id
    WHERE e.near_duplicate_of IS NOT NULL
)
UPDATE fracture.radiograph r
SET cluster_id = c.first_id
FROM (SELECT radiograph_id, min(earlier_id) AS first_id FROM chain GROUP BY radiograph_id) c
WHERE r.radiograph_id = c.radiograph_id;
