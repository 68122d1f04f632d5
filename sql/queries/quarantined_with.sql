-- How many objects are quarantined with a code.
-- parameters: code text      returns: objects bigint
SELECT count(*) AS objects FROM fracture.quarantine WHERE code = :code;
