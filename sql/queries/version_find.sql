-- The model version that this snapshot, recipe and code made.
-- parameters: snapshot_id text, recipe_id text, code_version text      returns: the columns of fracture.model_version
SELECT version, snapshot_id::text AS snapshot_id, recipe_id::text AS recipe_id, recipe, study_name, bundle_key,
       bundle_sha256::text AS bundle_sha256, metrics, operating_points, code_version, created_at
FROM fracture.model_version
WHERE snapshot_id = :snapshot_id AND recipe_id = :recipe_id AND code_version = :code_version;
