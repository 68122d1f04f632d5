-- When each step last did its work to the end: who hears nothing of one knows that it has stopped.
CREATE TABLE fracture.step_done (
    step    text PRIMARY KEY,
    done_at timestamptz NOT NULL
);

-- Objects of the inbox that are being looked at. What stays here was begun by a process that was killed meanwhile,
-- perhaps by the object itself.
CREATE TABLE fracture.attempted_object (
    object_key text    NOT NULL,
    etag       text    NOT NULL,
    attempts   integer NOT NULL,
    PRIMARY KEY (object_key, etag)
);

-- A keyed hash that tells the site's secret from another one, with which the same patient would be another group.
CREATE TABLE fracture.site_secret (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    fingerprint text NOT NULL
);

-- People wait since the object came into the bucket, not since it was taken in.
ALTER TABLE fracture.radiograph ADD COLUMN arrived_at timestamptz;
UPDATE fracture.radiograph SET arrived_at = received_at;
ALTER TABLE fracture.radiograph ALTER COLUMN arrived_at SET DEFAULT now(), ALTER COLUMN arrived_at SET NOT NULL;

-- No query goes by these; radiograph_regroup goes by the other.
DROP INDEX fracture.radiograph_patient, fracture.radiograph_group, fracture.radiograph_cluster;
CREATE INDEX radiograph_near_duplicate ON fracture.radiograph (near_duplicate_of) WHERE near_duplicate_of IS NOT NULL;
