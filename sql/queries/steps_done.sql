-- When each step last did its work to the end.
-- parameters: none      returns: step text, done_at timestamptz
SELECT step, done_at FROM fracture.step_done;
