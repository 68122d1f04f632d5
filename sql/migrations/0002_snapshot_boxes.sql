-- What the labels drew is part of what a model learns from: a snapshot freezes it too.
ALTER TABLE fracture.snapshot_member
    ADD COLUMN boxes jsonb NOT NULL DEFAULT '[]';           -- [{"x":, "y":, "width":, "height":}] in source pixels
