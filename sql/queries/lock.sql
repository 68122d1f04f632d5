-- Wait for the one lock of this purpose, at most as long as lock_timeout; it is held until the transaction ends.
-- parameters: purpose text      returns: nothing of use
SELECT pg_advisory_xact_lock(hashtextextended('fracture: ' || :purpose, 0));
