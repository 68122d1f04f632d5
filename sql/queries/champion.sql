-- The model version in use, and who put it there, when and why. No row: no model has been promoted yet.
-- parameters: none      returns: the columns of fracture.champion
SELECT version, snapshot_id::text AS snapshot_id, recipe_id::text AS recipe_id, recipe, study_name, bundle_key,
       bundle_sha256::text AS bundle_sha256, metrics, operating_points, code_version, created_at,
       promoted_by, promoted_at, promoted_because
FROM fracture.champion;
