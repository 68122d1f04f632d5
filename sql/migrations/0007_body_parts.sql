-- Which body parts a study's images show, sorted: `body_part` says "mixed" where there are several, and a region weight
-- counts for each of them. What was "mixed" before has none yet, and is ranked anew while it is open.
ALTER TABLE fracture.worklist ADD COLUMN body_parts text[] NOT NULL DEFAULT '{}';
UPDATE fracture.worklist SET body_parts = ARRAY[body_part] WHERE body_part NOT IN ('unknown', 'mixed');
