-- A step has done its work to the end.
-- parameters: step text      returns: nothing
INSERT INTO fracture.step_done (step, done_at) VALUES (:step, now())
ON CONFLICT (step) DO UPDATE SET done_at = excluded.done_at;
