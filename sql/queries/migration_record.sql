-- A migration was applied.
-- parameters: name text, sha256 text      returns: nothing
INSERT INTO fracture.migration (name, sha256) VALUES (:name, :sha256);
