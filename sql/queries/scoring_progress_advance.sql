-- Remember up to which radiograph every one has an outcome of the version. It goes back only where an
-- outcome is taken back (scoring_progress_go_back).
-- parameters: version int, complete_up_to bigint      returns: nothing
INSERT INTO fracture.scoring_progress AS s (version, complete_up_to)
VALUES (:version, :complete_up_to)
ON CONFLICT (version) DO UPDATE SET complete_up_to = EXCLUDED.complete_up_to, updated_at = now()
WHERE s.complete_up_to < EXCLUDED.complete_up_to;
