-- One model version.
-- parameters: version int      returns: the columns of fracture.model_version
SELECT version, snapshot_id::text AS snapshot_id, recipe_id::text AS recipe_id, recipe, study_name, bundle_key,
       bundle_sha256::text AS bundle_sha256, metrics, operating_points, code_version, created_at
FROM fracture.model_version
WHERE version = :version;
