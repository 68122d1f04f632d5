-- How many objects were quarantined since a time and are still.
-- parameters: since timestamptz      returns: quarantined bigint
SELECT count(*) AS quarantined FROM fracture.quarantine WHERE received_at >= :since;
