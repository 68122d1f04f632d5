-- The migrations that were applied, in order.
-- parameters: none      returns: name text, sha256 text
SELECT name, sha256 FROM fracture.migration ORDER BY name;
