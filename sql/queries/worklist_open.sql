-- The list that people read, most urgent first. SELECT * FROM fracture.worklist_open is all of it.
-- parameters: max_rows int, skip_rows int      returns: the columns of fracture.worklist_open
SELECT * FROM fracture.worklist_open LIMIT :max_rows OFFSET :skip_rows;
