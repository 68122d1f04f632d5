-- Add radiographs; one that is here already is not added again.
-- parameters: rows jsonb (modified_at: of the object in the bucket; NULL: not known)      returns: radiograph_id bigint, sha256 text
INSERT INTO fracture.radiograph
    (sha256, object_key, media_type, size_bytes, width_px, height_px, bits_stored, photometric, perceptual_hash,
     study_key, patient_key, sop_instance_key, group_key, body_part, laterality, view, sex, age_band, manufacturer,
     ordered_priority, stored_sha256, arrived_at)
SELECT sha256, object_key, media_type, size_bytes, width_px, height_px, bits_stored, photometric, perceptual_hash,
       coalesce(study_key, sha256), patient_key, sop_instance_key, 'image:' || sha256, body_part, laterality, view, sex,
       age_band, manufacturer, ordered_priority, stored_sha256,
       -- Older ones are an archive that was put into the bucket once: nobody waits for them.
       CASE WHEN modified_at BETWEEN now() - interval '7 days' AND now() THEN modified_at ELSE now() END
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
    sha256 text, object_key text, media_type text, size_bytes bigint, width_px integer, height_px integer,
    bits_stored smallint, photometric text, perceptual_hash bigint, study_key text, patient_key text,
    sop_instance_key text, body_part text, laterality text, view text, sex text, age_band text, manufacturer text,
    ordered_priority text, stored_sha256 text, modified_at timestamptz)
ON CONFLICT (sha256) DO NOTHING
RETURNING radiograph_id, sha256;
