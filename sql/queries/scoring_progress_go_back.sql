-- An outcome was taken back: not all up to there have one any more.
-- parameters: version int, due_from bigint (radiograph_id)      returns: nothing
UPDATE fracture.scoring_progress
SET complete_up_to = :due_from - 1, updated_at = now()
WHERE version = :version AND complete_up_to >= :due_from;
