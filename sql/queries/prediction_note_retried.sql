-- Note the outcomes of a version that are a reason with this code and are about to be taken back.
-- parameters: version int, code text      returns: radiograph_id bigint
INSERT INTO fracture.retried_prediction (version, radiograph_id, reason, scored_at)
SELECT version, radiograph_id, reason, scored_at
FROM fracture.prediction
WHERE version = :version AND reason IS NOT NULL AND split_part(reason, ':', 1) = :code
RETURNING radiograph_id;
