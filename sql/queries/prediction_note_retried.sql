-- Note the outcomes of a version that are a reason with this code and are about to be taken back. What people have read is
-- left as they saw it. An erasure that is under way is waited for.
-- parameters: version int, code text      returns: radiograph_id bigint
INSERT INTO fracture.retried_prediction (version, radiograph_id, reason, scored_at)
SELECT p.version, p.radiograph_id, p.reason, p.scored_at
FROM fracture.prediction p
WHERE p.version = :version AND p.reason IS NOT NULL AND split_part(p.reason, ':', 1) = :code
  AND NOT EXISTS (SELECT FROM fracture.radiograph r
                  JOIN fracture.worklist w USING (study_key)
                  WHERE r.radiograph_id = p.radiograph_id AND w.status IN ('reported', 'closed'))
FOR UPDATE OF p
RETURNING radiograph_id;
