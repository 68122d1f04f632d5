-- How often the test split of a data set was looked at, or that of another one which shares radiographs with it.
-- parameters: snapshot_id text      returns: looks bigint
SELECT count(*) AS looks
FROM fracture.split_look l
WHERE l.snapshot_id = :snapshot_id
   OR EXISTS (SELECT FROM fracture.snapshot_member theirs
              JOIN fracture.snapshot_member ours USING (radiograph_id)
              WHERE theirs.snapshot_id = l.snapshot_id AND theirs.split = 'test'
                AND ours.snapshot_id = :snapshot_id AND ours.split = 'test');
