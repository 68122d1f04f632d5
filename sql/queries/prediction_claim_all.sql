-- Wait for the claims of all versions on these blocks of radiographs, and hold them until the transaction ends.
-- parameters: blocks int[]      returns: nothing of use
SELECT pg_advisory_xact_lock(v.version, b.block)
FROM fracture.model_version v, unnest(CAST(:blocks AS integer[])) AS b (block)
ORDER BY v.version, b.block;
