-- The radiographs with a standing label that were received and labelled by a time, for a snapshot. The boxes are those
-- that positive labels drew on them by then, each once; none where the standing label is not positive.
-- parameters: as_of timestamptz      returns: radiograph_id bigint, sha256 text, group_key text, patient_key text,
--             study_key text, near_duplicate_of text (a sha256: the first picture of its cluster), label text, boxes jsonb
WITH RECURSIVE chain AS (  -- by way of pictures without a label too: what they tie together, no split may part
    SELECT radiograph_id, near_duplicate_of AS earlier_id
    FROM fracture.radiograph
    WHERE near_duplicate_of IS NOT NULL
    UNION ALL
    SELECT c.radiograph_id, e.near_duplicate_of
    FROM chain c
    JOIN fracture.radiograph e ON e.radiograph_id = c.earlier_id
    WHERE e.near_duplicate_of IS NOT NULL
),
cluster AS (
    SELECT radiograph_id, min(earlier_id) AS first_id FROM chain GROUP BY radiograph_id
),
drawn AS (
    SELECT l.radiograph_id, jsonb_agg(DISTINCT b.box) AS boxes
    FROM fracture.radiograph_label l, jsonb_array_elements(l.boxes) AS b (box)
    WHERE l.value = 'positive' AND l.recorded_at <= :as_of
    GROUP BY l.radiograph_id
)
SELECT r.radiograph_id, r.sha256::text AS sha256, r.group_key, r.patient_key, r.study_key,
       earliest.sha256::text AS near_duplicate_of, s.value AS label,
       CASE WHEN s.value = 'positive' THEN coalesce(d.boxes, '[]') ELSE '[]' END AS boxes
FROM fracture.standing_labels(:as_of) s
JOIN fracture.radiograph r USING (radiograph_id)
LEFT JOIN cluster c ON c.radiograph_id = r.radiograph_id
LEFT JOIN fracture.radiograph earliest ON earliest.radiograph_id = c.first_id
LEFT JOIN drawn d ON d.radiograph_id = r.radiograph_id
WHERE r.received_at <= :as_of
ORDER BY r.sha256;
