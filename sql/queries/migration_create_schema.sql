-- The schema of all our tables, before the first migration.
-- parameters: none      returns: nothing
CREATE SCHEMA IF NOT EXISTS fracture;
