-- The radiographs that any version of a label file speaks of, or spoke of.
-- parameters: object_key text      returns: radiograph_id bigint
SELECT DISTINCT s.radiograph_id
FROM fracture.received_object o
JOIN fracture.label_told t USING (received_object_id)
JOIN fracture.labelled_radiograph s USING (label_id)
WHERE o.object_key = :object_key AND o.outcome = 'labels';
