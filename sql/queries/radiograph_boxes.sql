-- The boxes that labels drew on these radiographs, in source pixels.
-- parameters: radiograph_ids bigint[]      returns: radiograph_id bigint, boxes jsonb
SELECT radiograph_id, boxes
FROM fracture.radiograph_label
WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[])) AND boxes <> '[]'
ORDER BY radiograph_id, label_id;
