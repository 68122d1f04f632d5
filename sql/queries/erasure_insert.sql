-- Record an erasure, and what must not come back. It opens the append-only tables for the rest of this transaction.
-- parameters: actor text, reason text, details jsonb, name_hashes text[]      returns: erasure_id bigint
WITH recorded AS (
    INSERT INTO fracture.erasure (actor, reason, details)
    VALUES (:actor, :reason, CAST(:details AS jsonb))
    RETURNING erasure_id
), kept_out AS (
    INSERT INTO fracture.erased_name (name_hash, erasure_id)
    SELECT DISTINCT n.name_hash, r.erasure_id
    FROM unnest(CAST(:name_hashes AS text[])) AS n (name_hash), recorded r
    ON CONFLICT (name_hash) DO NOTHING
)
SELECT erasure_id
FROM recorded;
