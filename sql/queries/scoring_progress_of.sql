-- Up to which radiograph every one has an outcome of the version; 0 where nothing is known.
-- parameters: version int      returns: complete_up_to bigint
SELECT coalesce(max(complete_up_to), 0) AS complete_up_to FROM fracture.scoring_progress WHERE version = :version;
