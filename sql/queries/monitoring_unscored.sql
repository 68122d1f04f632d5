-- Why radiographs have no score of a version, of its outcomes since a time.
-- parameters: version int, since timestamptz      returns: code text, radiographs bigint
SELECT split_part(reason, ':', 1) AS code, count(*) AS radiographs
FROM fracture.prediction
WHERE version = :version AND reason IS NOT NULL AND scored_at >= :since
GROUP BY code
ORDER BY radiographs DESC, code;
