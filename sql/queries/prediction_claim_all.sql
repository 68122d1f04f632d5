-- Wait for the claims of all versions that ever scored on these blocks of radiographs, and hold them until the
-- transaction ends.
-- parameters: blocks int[]      returns: nothing of use
SELECT pg_advisory_xact_lock(v.version, b.block)
FROM (SELECT DISTINCT version FROM fracture.model_event WHERE event IN ('promoted', 'rolled_back')) v,
     unnest(CAST(:blocks AS integer[])) AS b (block)
ORDER BY v.version, b.block;
