-- One study on the worklist, held until the transaction ends.
-- parameters: study_key text      returns: the columns of fracture.worklist
SELECT * FROM fracture.worklist WHERE study_key = :study_key FOR UPDATE;
