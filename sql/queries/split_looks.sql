-- How often the locked splits of a data set were looked at.
-- parameters: snapshot_id text      returns: looks bigint
SELECT count(*) AS looks FROM fracture.split_look WHERE snapshot_id = :snapshot_id;
