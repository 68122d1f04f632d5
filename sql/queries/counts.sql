-- What became of everything that was received: the line to look at first.
-- parameters: none      returns: one row of counts; received is the sum of
--             radiographs, copies, label_files and quarantined
WITH received AS (
    SELECT count(*) AS received,
           count(*) FILTER (WHERE outcome = 'copy') AS copies,
           count(*) FILTER (WHERE outcome = 'labels') AS label_files,
           count(*) FILTER (WHERE outcome = 'quarantined') AS quarantined
    FROM fracture.received_object
), by_code AS (
    SELECT coalesce(jsonb_object_agg(code, n), '{}') AS quarantined_by_code
    FROM (SELECT code, count(*) AS n FROM fracture.quarantine GROUP BY code) codes
), images AS (
    SELECT count(*) AS radiographs, count(near_duplicate_of) AS near_duplicates FROM fracture.radiograph
), labels AS (
    SELECT coalesce(jsonb_object_agg(value, n), '{}') AS labelled,
           coalesce(sum(contradicted), 0)::bigint AS contradicted
    FROM (SELECT value, count(*) AS n, count(*) FILTER (WHERE contradicted) AS contradicted
          FROM fracture.standing_label GROUP BY value) standing
)
SELECT received, radiographs, copies, label_files, quarantined, quarantined_by_code, near_duplicates, labelled,
       contradicted
FROM received, by_code, images, labels;
