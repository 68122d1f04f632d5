-- Somebody looks at a split that is locked.
-- parameters: snapshot_id text, split text, purpose text      returns: nothing
INSERT INTO fracture.split_look (snapshot_id, split, purpose) VALUES (:snapshot_id, :split, :purpose);
