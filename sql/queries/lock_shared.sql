-- Wait until nobody holds the one lock of this purpose, at most as long as lock_timeout, and keep it from others until
-- the transaction ends. Any number of transactions share it.
-- parameters: purpose text      returns: nothing of use
SELECT pg_advisory_xact_lock_shared(hashtextextended('fracture: ' || :purpose, 0));
