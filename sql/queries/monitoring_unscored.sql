-- Why images of open studies have no score: reasons of the champion, and of the version that the study shows.
-- parameters: champion int      returns: code text, radiographs bigint
SELECT split_part(p.reason, ':', 1) AS code, count(DISTINCT p.radiograph_id) AS radiographs
FROM fracture.prediction p
JOIN fracture.radiograph r USING (radiograph_id)
JOIN fracture.worklist w USING (study_key)
WHERE p.reason IS NOT NULL AND w.status NOT IN ('reported', 'closed') AND (p.version = :champion OR p.version = w.version)
GROUP BY code
ORDER BY radiographs DESC, code;
