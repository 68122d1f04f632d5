-- Blocks of neighbouring radiographs (id / block_size) with one that the version has no outcome for, newest first. Up
-- to complete_up_to all have one, and none is looked at (docs/decisions/020-scoring-progress.md).
-- parameters: version int, block_size int, complete_up_to bigint, first bigint, last bigint
-- returns: block bigint
SELECT DISTINCT r.radiograph_id / :block_size AS block
FROM fracture.radiograph r
LEFT JOIN fracture.prediction p
    ON p.version = :version AND p.radiograph_id = r.radiograph_id AND p.radiograph_id > :complete_up_to
WHERE r.radiograph_id > :complete_up_to
  AND r.radiograph_id BETWEEN :first AND :last
  AND p.radiograph_id IS NULL
ORDER BY block DESC;
