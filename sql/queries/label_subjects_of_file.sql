-- The radiographs that the labels of one received object speak of.
-- parameters: received_object_id bigint      returns: radiograph_id bigint
SELECT DISTINCT radiograph_id FROM fracture.radiograph_label WHERE received_object_id = :received_object_id;
