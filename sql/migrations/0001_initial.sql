-- The product's tables. Forward only; applied once, under a lock, by `fracture migrate`, which creates the schema.

-- The tuning study's tables, which Optuna makes by itself.
CREATE SCHEMA optuna;

CREATE DOMAIN fracture.sha256_hex AS text CHECK (VALUE ~ '^[0-9a-f]{64}$');

-- Nobody rewrites history: for tables whose rows are only ever added.
CREATE FUNCTION fracture.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'fracture.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- One image by content.
CREATE TABLE fracture.radiograph (
    radiograph_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256            fracture.sha256_hex NOT NULL UNIQUE,  -- of the bytes as received
    object_key        text        NOT NULL,                 -- of the de-identified bytes, under the hash
    media_type        text        NOT NULL CHECK (media_type IN ('image/png', 'image/jpeg', 'application/dicom')),
    size_bytes        bigint      NOT NULL,                 -- as received
    width_px          integer     NOT NULL,
    height_px         integer     NOT NULL,
    bits_stored       smallint    NOT NULL,
    photometric       text        NOT NULL,
    perceptual_hash   bigint      NOT NULL,                 -- 64 bits, as a signed number
    study_key         text        NOT NULL,                 -- keyed hash, or the sha256 where no study is known
    patient_key       text,                                 -- keyed hash
    sop_instance_key  text,
    group_key         text        NOT NULL,                 -- decides the split; never changes once in a snapshot
    near_duplicate_of bigint      REFERENCES fracture.radiograph,
    body_part         text        NOT NULL DEFAULT 'unknown',
    laterality        text,
    view              text,
    hardware          boolean,
    sex               text,
    age_band          text,
    manufacturer      text,
    ordered_priority  text        NOT NULL DEFAULT 'ROUTINE' CHECK (ordered_priority IN ('STAT', 'URGENT', 'ROUTINE')),
    received_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX radiograph_study ON fracture.radiograph (study_key);
CREATE INDEX radiograph_group ON fracture.radiograph (group_key);
CREATE INDEX radiograph_patient ON fracture.radiograph (patient_key) WHERE patient_key IS NOT NULL;

-- One object that was found in the bucket, and its one outcome.
CREATE TABLE fracture.received_object (
    received_object_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    object_key        text        NOT NULL,
    etag              text        NOT NULL,
    size_bytes        bigint      NOT NULL,
    file_name         text        NOT NULL GENERATED ALWAYS AS (regexp_replace(object_key, '^.*/', '')) STORED,
    outcome           text        NOT NULL
                      CHECK (outcome IN ('radiograph', 'copy', 'labels', 'ignored', 'quarantined')),
    radiograph_id     bigint      REFERENCES fracture.radiograph,
    labels_read       integer,
    code              text,
    sentence          text,
    received_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (object_key, etag),
    CHECK ((outcome IN ('radiograph', 'copy')) = (radiograph_id IS NOT NULL)),
    CHECK ((outcome = 'labels') = (labels_read IS NOT NULL)),
    CHECK ((outcome IN ('quarantined', 'ignored')) = (code IS NOT NULL AND sentence IS NOT NULL))
);
CREATE INDEX received_object_radiograph ON fracture.received_object (radiograph_id);
CREATE INDEX received_object_file_name ON fracture.received_object (file_name);
CREATE INDEX received_object_code ON fracture.received_object (code) WHERE outcome = 'quarantined';

CREATE VIEW fracture.quarantine AS
SELECT received_object_id, object_key, etag, size_bytes, code, sentence, received_at
FROM fracture.received_object
WHERE outcome = 'quarantined';

-- An opinion about a radiograph or a study. Append-only. It names its subject by hash, key, file name or study, so
-- that labels may arrive before the images they speak of.
CREATE TABLE fracture.label (
    label_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject_kind text        NOT NULL CHECK (subject_kind IN ('sha256', 'object_key', 'file_name', 'study_key')),
    subject      text        NOT NULL,
    scope        text        NOT NULL DEFAULT '',           -- for file_name: the key prefix below which it holds
    value        text        NOT NULL CHECK (value IN ('positive', 'negative', 'uncertain', 'absent')),
    meaning      text        NOT NULL DEFAULT 'fracture' CHECK (meaning IN ('fracture', 'abnormal')),
    source       text        NOT NULL CHECK (source IN ('adjudication', 'radiologist', 'report', 'dataset')),
    reader       text,
    labelled_at  timestamptz,
    boxes        jsonb       NOT NULL DEFAULT '[]',         -- [{"x":, "y":, "width":, "height":}] in source pixels
    patient_key  text,
    study_key    text,
    body_part    text,
    laterality   text,
    view         text,
    hardware     boolean,
    content_hash fracture.sha256_hex NOT NULL UNIQUE,       -- the same opinion twice is one row
    received_object_id bigint REFERENCES fracture.received_object,   -- which file or folder said so; NULL: a final read
    recorded_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX label_subject ON fracture.label (subject_kind, subject);
CREATE INDEX label_received_object ON fracture.label (received_object_id);
CREATE TRIGGER label_append_only BEFORE UPDATE OR DELETE ON fracture.label
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- Every label of every radiograph, once, by whichever name it used.
CREATE VIEW fracture.radiograph_label AS
SELECT named.radiograph_id, l.*
FROM (
    SELECT r.radiograph_id, s.label_id
    FROM fracture.radiograph r JOIN fracture.label s ON s.subject_kind = 'sha256' AND s.subject = r.sha256
    UNION
    SELECT o.radiograph_id, s.label_id
    FROM fracture.received_object o
    JOIN fracture.label s ON s.subject_kind = 'object_key' AND s.subject = o.object_key
    WHERE o.radiograph_id IS NOT NULL
    UNION
    SELECT o.radiograph_id, s.label_id
    FROM fracture.received_object o
    JOIN fracture.label s
        ON s.subject_kind = 'file_name' AND s.subject = o.file_name AND starts_with(o.object_key, s.scope)
    WHERE o.radiograph_id IS NOT NULL
    UNION
    SELECT r.radiograph_id, s.label_id
    FROM fracture.radiograph r JOIN fracture.label s ON s.subject_kind = 'study_key' AND s.subject = r.study_key
) named
JOIN fracture.label l USING (label_id);

-- The newest label of the highest-ranking source stands, of those recorded by a time. Labels of equal rank and time
-- that disagree leave 'uncertain'.
CREATE FUNCTION fracture.standing_labels(as_of timestamptz)
RETURNS TABLE (radiograph_id bigint, value text, meaning text, source text, contradicted boolean)
LANGUAGE sql STABLE AS $$
    WITH ranked AS (
        SELECT l.radiograph_id, l.value, l.meaning, l.source,
               rank() OVER (PARTITION BY l.radiograph_id
                            ORDER BY array_position(
                                         ARRAY['adjudication', 'radiologist', 'report', 'dataset'], l.source),
                                     l.labelled_at DESC NULLS LAST) AS place
        FROM fracture.radiograph_label l
        WHERE l.value <> 'absent' AND l.recorded_at <= as_of
    )
    SELECT k.radiograph_id,
           CASE WHEN min(k.value) = max(k.value) THEN min(k.value) ELSE 'uncertain' END,
           min(k.meaning),
           min(k.source),
           min(k.value) <> max(k.value)
    FROM ranked k
    WHERE k.place = 1
    GROUP BY k.radiograph_id
$$;
CREATE VIEW fracture.standing_label AS SELECT * FROM fracture.standing_labels('infinity');

-- The groups of radiographs that a model's measures are told apart by.
CREATE VIEW fracture.radiograph_subgroup AS
SELECT radiograph_id,
       body_part,
       coalesce(view, 'unknown') AS view,
       CASE hardware WHEN true THEN 'yes' WHEN false THEN 'no' ELSE 'unknown' END AS hardware,
       coalesce(sex, 'unknown') AS sex,
       coalesce(age_band, 'unknown') AS age_band,
       coalesce(manufacturer, 'unknown') AS manufacturer,
       media_type,
       CASE WHEN greatest(width_px, height_px) < 1024 THEN 'below 1024 px'
            WHEN greatest(width_px, height_px) < 2048 THEN '1024 to 2047 px'
            ELSE '2048 px and more' END AS size_band
FROM fracture.radiograph;

-- A frozen data set. Its id is the hash of its sorted rows and its plan.
CREATE TABLE fracture.snapshot (
    snapshot_id fracture.sha256_hex PRIMARY KEY,
    plan        jsonb       NOT NULL,
    counts      jsonb       NOT NULL,                       -- by split and label, and what was left out and why
    as_of       timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE fracture.snapshot_member (
    snapshot_id   fracture.sha256_hex NOT NULL REFERENCES fracture.snapshot,
    radiograph_id bigint   NOT NULL REFERENCES fracture.radiograph,
    label         smallint NOT NULL CHECK (label IN (0, 1)),
    split         text     NOT NULL CHECK (split IN ('train', 'validation', 'test', 'vault')),
    fold          smallint,
    PRIMARY KEY (snapshot_id, radiograph_id),
    CHECK ((split = 'train') = (fold IS NOT NULL))
);
CREATE INDEX snapshot_member_radiograph ON fracture.snapshot_member (radiograph_id);

-- Each look at a locked test split.
CREATE TABLE fracture.split_look (
    split_look_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    snapshot_id   fracture.sha256_hex NOT NULL REFERENCES fracture.snapshot,
    split         text        NOT NULL CHECK (split IN ('train', 'validation', 'test', 'vault')),
    purpose       text        NOT NULL,
    looked_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX split_look_snapshot ON fracture.split_look (snapshot_id);

-- Immutable.
CREATE TABLE fracture.model_version (
    version          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    snapshot_id      fracture.sha256_hex NOT NULL REFERENCES fracture.snapshot,
    recipe_id        fracture.sha256_hex NOT NULL,
    recipe           jsonb       NOT NULL,
    study_name       text,
    bundle_key       text        NOT NULL,
    bundle_sha256    fracture.sha256_hex NOT NULL,
    metrics          jsonb       NOT NULL,
    operating_points jsonb       NOT NULL,
    code_version     text        NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (snapshot_id, recipe_id, code_version)
);
CREATE TRIGGER model_version_append_only BEFORE UPDATE OR DELETE ON fracture.model_version
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- Calibrated scores of a version on an evaluated split: what the gate compares.
CREATE TABLE fracture.evaluation_score (
    version       integer  NOT NULL REFERENCES fracture.model_version,
    radiograph_id bigint   NOT NULL REFERENCES fracture.radiograph,
    split         text     NOT NULL CHECK (split IN ('train', 'validation', 'test', 'vault')),
    label         smallint NOT NULL CHECK (label IN (0, 1)),
    score         real     NOT NULL CHECK (score BETWEEN 0 AND 1),
    PRIMARY KEY (version, radiograph_id)
);

-- Append-only. The champion is the newest promotion (a roll-back is one, to an earlier version).
CREATE TABLE fracture.model_event (
    model_event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version        integer     NOT NULL REFERENCES fracture.model_version,
    event          text        NOT NULL
                   CHECK (event IN ('registered', 'judged', 'approved', 'rejected', 'promoted', 'rolled_back')),
    actor          text        NOT NULL,
    reason         text        NOT NULL,
    details        jsonb       NOT NULL DEFAULT '{}',
    happened_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX model_event_judged_once ON fracture.model_event (version) WHERE event = 'judged';
CREATE UNIQUE INDEX model_event_registered_once ON fracture.model_event (version) WHERE event = 'registered';
CREATE TRIGGER model_event_append_only BEFORE UPDATE OR DELETE ON fracture.model_event
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

CREATE VIEW fracture.champion AS
SELECT v.*, e.actor AS promoted_by, e.happened_at AS promoted_at, e.reason AS promoted_because
FROM (SELECT * FROM fracture.model_event WHERE event IN ('promoted', 'rolled_back')
      ORDER BY model_event_id DESC LIMIT 1) e
JOIN fracture.model_version v USING (version);

-- Exactly one outcome per radiograph and version: a probability or a reason, never both.
CREATE TABLE fracture.prediction (
    version         integer     NOT NULL REFERENCES fracture.model_version,
    radiograph_id   bigint      NOT NULL REFERENCES fracture.radiograph,
    probability     real        CHECK (probability BETWEEN 0 AND 1),
    reason          text,
    calibrated      real        CHECK (calibrated BETWEEN 0 AND 1),
    operating_point text        CHECK (operating_point IN ('urgent', 'suspicious', 'below')),
    heat_map_key    text,
    overlay_key     text,
    box             jsonb,                                  -- {"x":, "y":, "width":, "height":} in source pixels
    scored_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, radiograph_id),
    CHECK ((probability IS NULL) <> (reason IS NULL)),
    CHECK ((probability IS NULL) = (calibrated IS NULL) AND (probability IS NULL) = (operating_point IS NULL))
);
CREATE INDEX prediction_radiograph ON fracture.prediction (radiograph_id);
CREATE TRIGGER prediction_append_only BEFORE UPDATE OR DELETE ON fracture.prediction
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- Every radiograph up to this one has an outcome of the version: what is due lies above it.
CREATE TABLE fracture.scoring_progress (
    version          integer     PRIMARY KEY REFERENCES fracture.model_version,
    complete_up_to   bigint      NOT NULL,                  -- radiograph_id
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- One row per study.
CREATE TABLE fracture.worklist (
    study_key        text        PRIMARY KEY,
    ordered_priority text        NOT NULL CHECK (ordered_priority IN ('STAT', 'URGENT', 'ROUTINE')),
    ai_priority      text        NOT NULL CHECK (ai_priority IN ('urgent', 'suspicious', 'below', 'unavailable')),
    score            real        CHECK (score BETWEEN 0 AND 1),
    radiograph_id    bigint      NOT NULL REFERENCES fracture.radiograph,   -- the image that decides, or the first
    version          integer     REFERENCES fracture.model_version,
    body_part        text        NOT NULL,
    images           integer     NOT NULL,
    images_unscored  integer     NOT NULL,
    raised           boolean     NOT NULL DEFAULT false,    -- one step up by a region weight
    prioritised      boolean     NOT NULL DEFAULT true,     -- false: switched off, only the ordered priority counts
    arrived_at       timestamptz NOT NULL,
    due_at           timestamptz NOT NULL,
    status           text        NOT NULL DEFAULT 'new'
                     CHECK (status IN ('new', 'acknowledged', 'reading', 'reported', 'closed', 'reopened')),
    holder           text,
    row_version      integer     NOT NULL DEFAULT 1,
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((ai_priority = 'unavailable') = (score IS NULL))
);
CREATE INDEX worklist_status ON fracture.worklist (status);

-- Append-only: who did what to an item, when; final reads.
CREATE TABLE fracture.worklist_event (
    worklist_event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_key   text        NOT NULL REFERENCES fracture.worklist,
    event       text        NOT NULL
                CHECK (event IN ('listed', 're-ranked', 'acknowledged', 'reading', 'reported', 'closed', 'reopened',
                                 'released')),
    actor       text        NOT NULL,
    details     jsonb       NOT NULL DEFAULT '{}',          -- a final read: finding, score and version that were seen
    happened_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX worklist_event_study ON fracture.worklist_event (study_key);
CREATE INDEX worklist_event_final_read ON fracture.worklist_event (happened_at) WHERE event = 'reported';
CREATE TRIGGER worklist_event_append_only BEFORE UPDATE OR DELETE ON fracture.worklist_event
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- The last final read of each study, with what the reader saw.
CREATE VIEW fracture.final_read AS
SELECT DISTINCT ON (study_key)
       study_key, happened_at, actor,
       details ->> 'value' AS value,
       details ->> 'body_part' AS body_part,
       details ->> 'ai_priority' AS ai_priority,
       (details ->> 'score')::real AS score,
       (details ->> 'version')::integer AS model_version,
       (details ->> 'radiograph_id')::bigint AS radiograph_id
FROM fracture.worklist_event
WHERE event = 'reported'
ORDER BY study_key, worklist_event_id DESC;

-- The list that people read: most urgent first, then by due time, then by arrival.
--   priority: STAT, URGENT or ROUTINE after the AI raised it (it never lowers one); an item past its due time rises one
--   step, so that nothing starves. Within ROUTINE, what is suspicious comes first.
CREATE VIEW fracture.worklist_open AS
SELECT CASE rung WHEN 0 THEN 'STAT' WHEN 1 THEN 'URGENT' ELSE 'ROUTINE' END AS priority,
       due_at,
       now() > due_at AS overdue,
       CASE ai_priority WHEN 'urgent' THEN 'urgent' WHEN 'suspicious' THEN 'suspicious'
                        WHEN 'below' THEN 'no finding flagged' ELSE 'AI unavailable' END AS ai,
       round(score::numeric, 3) AS score,
       body_part, images, images_unscored, status, holder, ordered_priority, arrived_at, version AS model_version,
       study_key, radiograph_id, row_version
FROM (
    SELECT w.*,
           greatest(0,
               least(CASE ordered_priority WHEN 'STAT' THEN 0 WHEN 'URGENT' THEN 1 ELSE 2 END,
                     CASE WHEN prioritised AND ai_priority = 'urgent' THEN 1 ELSE 2 END
                     - CASE WHEN prioritised AND raised THEN 1 ELSE 0 END)
               - CASE WHEN now() > due_at THEN 1 ELSE 0 END) AS rung
    FROM fracture.worklist w
    WHERE status IN ('new', 'acknowledged', 'reading', 'reopened')
) placed
ORDER BY rung, (rung = 2 AND prioritised AND ai_priority = 'suspicious') DESC, due_at, arrived_at, study_key;

CREATE TABLE fracture.drift_report (
    day          date        NOT NULL,
    version      integer     NOT NULL REFERENCES fracture.model_version,
    measures     jsonb       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (day, version)
);

-- What a person must look at: one open row per thing, whoever noticed it and however often.
CREATE TABLE fracture.alert (
    alert_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text        NOT NULL,
    subject    text        NOT NULL,                        -- a version, a day, a count; never a person
    sentence   text        NOT NULL,
    raised_at  timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz
);
CREATE UNIQUE INDEX alert_open_once ON fracture.alert (kind, subject) WHERE settled_at IS NULL;

-- The role that may look at the list, and at nothing else. Its password, where one is wanted, is set by the deployment,
-- which also creates the role where the owner of this schema may not.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'fracture_reader') THEN
        CREATE ROLE fracture_reader LOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;                                                   -- another database of this server was quicker
END $$;
GRANT USAGE ON SCHEMA fracture TO fracture_reader;
GRANT SELECT ON fracture.worklist_open TO fracture_reader;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA fracture FROM PUBLIC;
