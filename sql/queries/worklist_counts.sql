-- How many studies are on the worklist, by what.
-- parameters: none      returns: open bigint, overdue bigint, by_priority jsonb, by_ai jsonb, by_status jsonb
SELECT (SELECT count(*) FROM fracture.worklist_open) AS open,
       (SELECT count(*) FROM fracture.worklist_open WHERE overdue) AS overdue,
       (SELECT coalesce(jsonb_object_agg(priority, n), '{}')
        FROM (SELECT priority, count(*) AS n FROM fracture.worklist_open GROUP BY priority) p) AS by_priority,
       (SELECT coalesce(jsonb_object_agg(ai, n), '{}')
        FROM (SELECT ai, count(*) AS n FROM fracture.worklist_open GROUP BY ai) a) AS by_ai,
       (SELECT coalesce(jsonb_object_agg(status, n), '{}')
        FROM (SELECT status, count(*) AS n FROM fracture.worklist GROUP BY status) s) AS by_status;
