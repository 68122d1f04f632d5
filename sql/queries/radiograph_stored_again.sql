-- Files that came again were stored again, perhaps by other code than before, which writes other bytes: the hash is of
-- what is in the bucket now.
-- parameters: rows jsonb      returns: nothing
UPDATE fracture.radiograph r
SET stored_sha256 = x.stored_sha256
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (sha256 text, stored_sha256 text)
WHERE r.sha256 = x.sha256 AND r.stored_sha256 IS DISTINCT FROM x.stored_sha256;
