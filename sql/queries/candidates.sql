-- The radiographs with a standing label that were received and labelled by a time, for a snapshot. The boxes are those
-- that positive labels drew on them by then, each once; none where the standing label is not positive. Patient and study
-- are what the file or, since then, a label names: group_key is what it was when it was first frozen.
-- parameters: as_of timestamptz
-- returns: radiograph_id bigint, sha256 text, group_key text, patient_key text, study_key text,
--          near_duplicate_of text (a sha256: the first picture of its cluster), label text, meaning text, boxes jsonb
WITH drawn AS (
    SELECT l.radiograph_id, jsonb_agg(DISTINCT b.box) AS boxes
    FROM fracture.radiograph_labels(:as_of) l, jsonb_array_elements(l.boxes) AS b (box)
    WHERE l.value = 'positive'
    GROUP BY l.radiograph_id
)
SELECT r.radiograph_id, r.sha256::text AS sha256, r.group_key, coalesce(told.patient_key, r.patient_key) AS patient_key,
       coalesce(told.study_key, r.study_key) AS study_key,
       earliest.sha256::text AS near_duplicate_of, s.value AS label, s.meaning,
       CASE WHEN s.value = 'positive' THEN coalesce(d.boxes, '[]') ELSE '[]' END AS boxes
FROM fracture.standing_labels(:as_of) s
JOIN fracture.radiograph r USING (radiograph_id)
LEFT JOIN fracture.told_facts told ON told.radiograph_id = r.radiograph_id
LEFT JOIN fracture.radiograph earliest ON earliest.radiograph_id = r.cluster_id
LEFT JOIN drawn d ON d.radiograph_id = r.radiograph_id
WHERE r.received_at <= :as_of
ORDER BY r.sha256;
