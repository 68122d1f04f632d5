-- How many open studies are past their due time.
-- parameters: none      returns: overdue bigint
SELECT count(*) AS overdue FROM fracture.worklist_open WHERE overdue;
