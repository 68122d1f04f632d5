-- Delete the outcomes that this transaction has noted as retried (prediction_note_retried).
-- parameters: version int, radiograph_ids bigint[]      returns: nothing
DELETE FROM fracture.prediction
WHERE version = :version AND radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]));
