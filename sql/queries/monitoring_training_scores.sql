-- A version's calibrated scores on its evaluated split.
-- parameters: version int      returns: score real
SELECT score FROM fracture.evaluation_score WHERE version = :version ORDER BY radiograph_id;
