-- Which migration was applied when, and with which text.
-- parameters: none      returns: nothing
CREATE TABLE IF NOT EXISTS fracture.migration (
    name       text        PRIMARY KEY,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
