-- Register a model version; the same snapshot, recipe and code make one version.
-- parameters: snapshot_id text, recipe_id text, recipe jsonb, study_name text, bundle_key text, bundle_sha256 text,
--             metrics jsonb, operating_points jsonb, code_version text      returns: version int where it is new
INSERT INTO fracture.model_version
    (snapshot_id, recipe_id, recipe, study_name, bundle_key, bundle_sha256, metrics, operating_points, code_version)
VALUES (:snapshot_id, :recipe_id, CAST(:recipe AS jsonb), :study_name, :bundle_key, :bundle_sha256,
        CAST(:metrics AS jsonb), CAST(:operating_points AS jsonb), :code_version)
ON CONFLICT (snapshot_id, recipe_id, code_version) DO NOTHING
RETURNING version;
