-- Labels of these radiographs changed: whether their studies are kept off the worklist is decided anew.
-- parameters: radiograph_ids bigint[]      returns: nothing
DELETE FROM fracture.unlisted_study u
USING fracture.radiograph r
WHERE r.radiograph_id = ANY(CAST(:radiograph_ids AS bigint[])) AND u.study_key = r.study_key;
