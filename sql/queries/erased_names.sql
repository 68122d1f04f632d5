-- Keyed hashes of all that must not come back.
-- parameters: none      returns: name_hash text
SELECT name_hash
FROM fracture.erased_name;
