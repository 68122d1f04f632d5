-- Add opinions; one that is here already is not added again.
-- parameters: rows jsonb      returns: label_id bigint
INSERT INTO fracture.label
    (subject_kind, subject, scope, value, meaning, source, reader, labelled_at, boxes, patient_key, study_key,
     body_part, laterality, view, hardware, content_hash, received_object_id)
SELECT subject_kind, subject, scope, value, meaning, source, reader, labelled_at, boxes, patient_key, study_key,
       body_part, laterality, view, hardware, content_hash, received_object_id
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x (
    subject_kind text, subject text, scope text, value text, meaning text, source text, reader text,
    labelled_at timestamptz, boxes jsonb, patient_key text, study_key text, body_part text, laterality text,
    view text, hardware boolean, content_hash text, received_object_id bigint)
ORDER BY content_hash
ON CONFLICT (content_hash) DO NOTHING
RETURNING label_id;
