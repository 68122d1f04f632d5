-- A label file that comes again under its key replaces what it said before: a label holds while a final read, an image's
-- folder or the last version of a file says so.
CREATE TABLE fracture.label_told (
    label_id           bigint      NOT NULL REFERENCES fracture.label,
    received_object_id bigint      NOT NULL REFERENCES fracture.received_object,   -- the file, or the image in its folder
    told_from          timestamptz NOT NULL DEFAULT clock_timestamp(),
    told_until         timestamptz,                         -- when another version of the file took its place
    PRIMARY KEY (label_id, received_object_id, told_from),
    CHECK (told_until >= told_from)
);
CREATE INDEX label_told_received_object ON fracture.label_told (received_object_id);

-- The version of each label file that was read last. One without a row here is read again, which says who tells what
-- where that was not kept until now.
CREATE TABLE fracture.label_file (
    object_key         text        PRIMARY KEY,
    received_object_id bigint      NOT NULL REFERENCES fracture.received_object,
    read_at            timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO fracture.label_told (label_id, received_object_id, told_from)
SELECT label_id, received_object_id, recorded_at FROM fracture.label WHERE received_object_id IS NOT NULL;

-- Which radiographs a label speaks of, by whichever name it used, whether it holds or not. A final read speaks of what
-- was there to be read.
CREATE VIEW fracture.labelled_radiograph AS
SELECT r.radiograph_id, l.label_id
FROM fracture.radiograph r JOIN fracture.label l ON l.subject_kind = 'sha256' AND l.subject = r.sha256
UNION
SELECT o.radiograph_id, l.label_id
FROM fracture.received_object o
JOIN fracture.label l ON l.subject_kind = 'object_key' AND l.subject = o.object_key
WHERE o.radiograph_id IS NOT NULL
UNION
SELECT o.radiograph_id, l.label_id
FROM fracture.received_object o
JOIN fracture.label l
    ON l.subject_kind = 'file_name' AND l.subject = o.file_name AND starts_with(o.object_key, l.scope)
WHERE o.radiograph_id IS NOT NULL
UNION
SELECT r.radiograph_id, l.label_id
FROM fracture.radiograph r JOIN fracture.label l ON l.subject_kind = 'study_key' AND l.subject = r.study_key
WHERE l.received_object_id IS NOT NULL OR r.received_at <= l.labelled_at;

-- Every label of every radiograph, once, of those that held at a time.
CREATE FUNCTION fracture.radiograph_labels(as_of timestamptz)
RETURNS TABLE (radiograph_id bigint, label_id bigint, value text, meaning text, source text, labelled_at timestamptz,
               boxes jsonb, patient_key text, study_key text, body_part text, laterality text, view text,
               hardware boolean)
LANGUAGE sql STABLE AS $$
    SELECT s.radiograph_id, l.label_id, l.value, l.meaning, l.source, l.labelled_at, l.boxes, l.patient_key, l.study_key,
           l.body_part, l.laterality, l.view, l.hardware
    FROM fracture.labelled_radiograph s
    JOIN fracture.label l USING (label_id)
    WHERE l.recorded_at <= as_of
      AND (l.received_object_id IS NULL
           OR EXISTS (SELECT FROM fracture.label_told t
                      WHERE t.label_id = l.label_id AND t.told_from <= as_of
                        AND (t.told_until IS NULL OR as_of < t.told_until)))
$$;

-- As before; labels that agree mean a fracture where one of them says so.
CREATE OR REPLACE FUNCTION fracture.standing_labels(as_of timestamptz)
RETURNS TABLE (radiograph_id bigint, value text, meaning text, source text, contradicted boolean)
LANGUAGE sql STABLE AS $$
    WITH ranked AS (
        SELECT l.radiograph_id, l.value, l.meaning, l.source,
               rank() OVER (PARTITION BY l.radiograph_id
                            ORDER BY array_position(
                                         ARRAY['adjudication', 'radiologist', 'report', 'dataset'], l.source),
                                     l.labelled_at DESC NULLS LAST) AS place
        FROM fracture.radiograph_labels(as_of) l
        WHERE l.value <> 'absent'
    )
    SELECT k.radiograph_id,
           CASE WHEN min(k.value) = max(k.value) THEN min(k.value) ELSE 'uncertain' END,
           max(k.meaning),
           min(k.source),
           min(k.value) <> max(k.value)
    FROM ranked k
    WHERE k.place = 1
    GROUP BY k.radiograph_id
$$;
DROP VIEW fracture.radiograph_label;

-- What is known of a labelled radiograph beside the finding, as its DICOM says, else as the labels that hold now tell: the
-- best source first, then the oldest label. Only a DICOM says anything itself: what is known of a PNG or JPEG was told.
CREATE VIEW fracture.told_facts AS
SELECT told.radiograph_id,
       CASE WHEN own.says THEN coalesce(r.patient_key, told.patient_key)
            ELSE coalesce(told.patient_key, r.patient_key) END AS patient_key,
       CASE WHEN own.says AND r.study_key <> r.sha256 THEN r.study_key
            ELSE coalesce(told.study_key, r.study_key) END AS study_key,
       CASE WHEN own.says AND r.body_part <> 'unknown' THEN r.body_part
            ELSE coalesce(told.body_part, r.body_part) END AS body_part,
       CASE WHEN own.says THEN coalesce(r.laterality, told.laterality)
            ELSE coalesce(told.laterality, r.laterality) END AS laterality,
       CASE WHEN own.says THEN coalesce(r.view, told.view) ELSE coalesce(told.view, r.view) END AS view,
       coalesce(told.hardware, r.hardware) AS hardware
FROM (
    SELECT radiograph_id,
           (array_agg(patient_key ORDER BY place, label_id) FILTER (WHERE patient_key IS NOT NULL))[1] AS patient_key,
           (array_agg(study_key ORDER BY place, label_id) FILTER (WHERE study_key IS NOT NULL))[1] AS study_key,
           (array_agg(body_part ORDER BY place, label_id)
               FILTER (WHERE body_part IS NOT NULL AND body_part <> 'unknown'))[1] AS body_part,
           (array_agg(laterality ORDER BY place, label_id) FILTER (WHERE laterality IS NOT NULL))[1] AS laterality,
           (array_agg(view ORDER BY place, label_id) FILTER (WHERE view IS NOT NULL))[1] AS view,
           (array_agg(hardware ORDER BY place, label_id) FILTER (WHERE hardware IS NOT NULL))[1] AS hardware
    FROM (SELECT *, array_position(ARRAY['adjudication', 'radiologist', 'report', 'dataset'], source) AS place
          FROM fracture.radiograph_labels('infinity')) ranked
    GROUP BY radiograph_id
) told
JOIN fracture.radiograph r USING (radiograph_id)
CROSS JOIN LATERAL (SELECT r.media_type = 'application/dicom' AS says) own;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA fracture FROM PUBLIC;
