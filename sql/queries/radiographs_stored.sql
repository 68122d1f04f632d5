-- Where these radiographs' bytes are, and what they are.
-- parameters: radiograph_ids bigint[]
-- returns: radiograph_id bigint, sha256 text, object_key text, media_type text, stored_sha256 text
SELECT radiograph_id, sha256::text AS sha256, object_key, media_type, stored_sha256::text AS stored_sha256
FROM fracture.radiograph
WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]));
