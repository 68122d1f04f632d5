-- What people reported or closed, the last changed first, each with its last final read.
-- parameters: max_rows int, skip_rows int
-- returns: the columns of fracture.worklist, final_read text, reader text, read_at timestamptz
SELECT w.*, r.final_read, r.reader, r.read_at
FROM (
    SELECT * FROM fracture.worklist
    WHERE status IN ('reported', 'closed')
    ORDER BY updated_at DESC, study_key
    LIMIT :max_rows OFFSET :skip_rows
) w
LEFT JOIN LATERAL (
    SELECT e.details ->> 'value' AS final_read, e.actor AS reader, e.happened_at AS read_at
    FROM fracture.worklist_event e
    WHERE e.study_key = w.study_key AND e.event = 'reported'
    ORDER BY e.worklist_event_id DESC
    LIMIT 1
) r ON true
ORDER BY w.updated_at DESC, w.study_key;
