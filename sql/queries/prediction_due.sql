-- Radiographs of a range that the version has no outcome for, oldest first.
-- parameters: version int, first bigint, last bigint
-- returns: radiograph_id bigint, sha256 text, object_key text, media_type text, stored_sha256 text
SELECT r.radiograph_id, r.sha256::text AS sha256, r.object_key, r.media_type, r.stored_sha256::text AS stored_sha256
FROM fracture.radiograph r
WHERE r.radiograph_id BETWEEN :first AND :last
  AND NOT EXISTS (SELECT FROM fracture.prediction p WHERE p.version = :version AND p.radiograph_id = r.radiograph_id)
ORDER BY r.radiograph_id;
