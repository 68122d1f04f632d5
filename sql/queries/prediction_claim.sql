-- Claim a block of radiographs for scoring until the transaction ends: nobody else gets it meanwhile. Waits for nobody.
-- What is due is asked afterwards, in a statement of its own, which sees all that the holder before committed.
-- parameters: version int, block int      returns: claimed boolean
SELECT pg_try_advisory_xact_lock(CAST(:version AS integer), CAST(:block AS integer)) AS claimed;
