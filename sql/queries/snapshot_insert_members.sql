-- The members of a data set, as they were drawn: those whose group is no longer what it was then are left out.
-- parameters: snapshot_id text, rows jsonb      returns: radiograph_id bigint
INSERT INTO fracture.snapshot_member (snapshot_id, radiograph_id, label, split, fold, boxes)
SELECT :snapshot_id, radiograph_id, x.label, x.split, x.fold, x.boxes
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
    radiograph_id bigint, group_key text, label smallint, split text, fold smallint, boxes jsonb)
JOIN fracture.radiograph USING (radiograph_id, group_key)
RETURNING radiograph_id;
