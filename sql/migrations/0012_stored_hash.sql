-- Of the de-identified bytes under `object_key`, as they were stored: what is read later is used only where it is still
-- this. NULL: stored before this migration, and read unchecked until the same file comes again.
ALTER TABLE fracture.radiograph ADD COLUMN stored_sha256 fracture.sha256_hex;
