-- The groups that these radiographs are told apart by.
-- parameters: radiograph_ids bigint[]      returns: the columns of fracture.radiograph_subgroup, all text but the id
SELECT * FROM fracture.radiograph_subgroup WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]));
