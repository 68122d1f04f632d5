-- Which of these images are here, under which id.
-- parameters: sha256s text[]      returns: radiograph_id bigint, sha256 text
SELECT radiograph_id, sha256::text AS sha256
FROM fracture.radiograph
WHERE sha256 = ANY(CAST(:sha256s AS text[]));
