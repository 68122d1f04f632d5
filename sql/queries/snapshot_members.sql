-- The members of a data set, sorted by content.
-- parameters: snapshot_id text      returns: radiograph_id bigint, sha256 text, group_key text, label int, split text,
--             fold int, boxes jsonb
SELECT m.radiograph_id, r.sha256::text AS sha256, r.group_key, m.label, m.split, m.fold, m.boxes
FROM fracture.snapshot_member m
JOIN fracture.radiograph r USING (radiograph_id)
WHERE m.snapshot_id = :snapshot_id
ORDER BY r.sha256;
