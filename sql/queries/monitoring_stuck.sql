-- Work that stands still: studies that somebody has held for long, radiographs on no list whose study was not kept off
-- it, versions that wait for the gate: neither judged nor decided otherwise, and no newer one has taken their turn.
-- parameters: before timestamptz      returns: held bigint, unlisted bigint, unjudged bigint
SELECT (SELECT count(*) FROM fracture.worklist w
        WHERE status IN ('acknowledged', 'reading')
          -- Since a person took it: a new ranking is no work of theirs.
          AND (SELECT max(happened_at) FROM fracture.worklist_event e
               WHERE e.study_key = w.study_key AND e.event IN ('acknowledged', 'reading')) < :before) AS held,
       (SELECT count(*) FROM fracture.radiograph r
        WHERE received_at < :before
          AND NOT EXISTS (SELECT FROM fracture.worklist w WHERE w.study_key = r.study_key)
          AND NOT EXISTS (SELECT FROM fracture.unlisted_study u WHERE u.study_key = r.study_key)) AS unlisted,
       (SELECT count(*) FROM fracture.model_version v
        WHERE created_at < :before
          AND NOT EXISTS (SELECT FROM fracture.model_event e
                          WHERE e.version >= v.version AND e.event = 'judged'
                             OR e.version = v.version AND e.event IN ('promoted', 'rolled_back', 'rejected'))) AS unjudged;
