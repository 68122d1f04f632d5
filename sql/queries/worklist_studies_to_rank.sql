-- Of these studies, those whose row on the worklist is absent or outdated: an image came, other scores are there, a body
-- part became known, or other rules hold. A study that people reported or closed is outdated by a new image alone.
-- A listed study keeps the version that it shows until the asked one has an outcome for each of its images: a run that
-- failed, or has not come so far, must not take an urgent study for one without a score. It keeps a later champion's,
-- unless that has no outcome for an image, which must not be hidden behind it. And while it was not rolled back it keeps
-- the one that places it higher, where the other has no score for an image: a fault of a bucket makes nothing less urgent.
-- parameters: study_keys text[], version int (NULL: no champion), list_labelled boolean (false: `labelled` is looked up),
--             ranked_by text (the rules that place studies now), later int[] (champions that came after the version),
--             standing int[] (champions that were not rolled back)
-- returns: study_key text, version int (whose scores these are), ordered_priority text, body_parts text[] (sorted, without
--          unknown), arrived_at timestamptz, images bigint, first_radiograph_id bigint,
--          scores jsonb ([radiograph_id, calibrated, operating_point], ...), unscored bigint,
--          labelled boolean (not listed yet, and every image has a standing label that says positive or negative)
WITH by_version AS (
    SELECT r.study_key, w.study_key IS NOT NULL AS listed, w.status, w.images, w.images_unscored, w.body_parts,
           w.ranked_by, w.version AS shown_version,
           bool_or(asked.radiograph_id IS NULL) AS asked_awaited,
           bool_or(shown.radiograph_id IS NULL) AS shown_awaited,
           bool_or(asked.calibrated IS NULL AND shown.calibrated IS NOT NULL) AS asked_lacks_a_score,
           max(array_position(ARRAY['below', 'suspicious', 'urgent'], asked.operating_point)) AS asked_place,
           max(array_position(ARRAY['below', 'suspicious', 'urgent'], shown.operating_point)) AS shown_place
    FROM fracture.radiograph r
    LEFT JOIN fracture.worklist w USING (study_key)
    LEFT JOIN fracture.prediction asked ON asked.radiograph_id = r.radiograph_id AND asked.version = :version
    LEFT JOIN fracture.prediction shown ON shown.radiograph_id = r.radiograph_id AND shown.version = w.version
    WHERE r.study_key = ANY(CAST(:study_keys AS text[]))
    GROUP BY r.study_key, w.study_key
), by_version_to_show AS (
    SELECT study_key, listed, status, images, images_unscored, body_parts, ranked_by, shown_version,
           CASE WHEN listed AND asked_awaited THEN shown_version
                WHEN shown_version = ANY(CAST(:later AS integer[])) AND NOT shown_awaited THEN shown_version
                WHEN shown_version = ANY(CAST(:standing AS integer[]))
                     AND (asked_lacks_a_score OR shown_version = ANY(CAST(:later AS integer[])))
                     AND coalesce(shown_place, 0) > coalesce(asked_place, 0) THEN shown_version
                ELSE CAST(:version AS integer) END AS version
    FROM by_version
)
SELECT s.study_key, w.version,
       (ARRAY['STAT', 'URGENT', 'ROUTINE'])[s.rung] AS ordered_priority,
       s.body_parts, s.arrived_at, s.images, s.first_radiograph_id, s.scores, s.unscored,
       -- Each image by itself: a join would make Postgres put together the labels of all radiographs.
       CASE WHEN :list_labelled OR w.listed THEN false
            ELSE (SELECT bool_and(coalesce((SELECT l.value FROM fracture.standing_label l
                                            WHERE l.radiograph_id = r.radiograph_id) IN ('positive', 'negative'), false))
                  FROM fracture.radiograph r
                  WHERE r.study_key = s.study_key)
       END AS labelled
FROM by_version_to_show w
JOIN LATERAL (
    SELECT r.study_key,
           min(array_position(ARRAY['STAT', 'URGENT', 'ROUTINE'], r.ordered_priority)) AS rung,
           coalesce(array_agg(DISTINCT r.body_part ORDER BY r.body_part) FILTER (WHERE r.body_part <> 'unknown'), '{}')
               AS body_parts,
           -- Of a study that was read once, the clock starts with what came after that.
           coalesce(min(r.arrived_at) FILTER (WHERE r.received_at > (
                        SELECT max(e.happened_at) FROM fracture.worklist_event e
                        WHERE e.study_key = w.study_key AND e.event = 'reported')),
                    min(r.arrived_at)) AS arrived_at,
           count(*) AS images,
           min(r.radiograph_id) AS first_radiograph_id,
           coalesce(jsonb_agg(jsonb_build_array(r.radiograph_id, p.calibrated, p.operating_point)
                              ORDER BY r.radiograph_id) FILTER (WHERE p.calibrated IS NOT NULL), '[]') AS scores,
           count(*) FILTER (WHERE p.calibrated IS NULL) AS unscored
    FROM fracture.radiograph r
    LEFT JOIN fracture.prediction p ON p.radiograph_id = r.radiograph_id AND p.version = w.version
    WHERE r.study_key = w.study_key
    GROUP BY r.study_key
) s ON true
WHERE NOT w.listed
   OR CASE WHEN w.status IN ('reported', 'closed') THEN s.images > w.images
           ELSE w.version IS DISTINCT FROM w.shown_version OR s.images <> w.images OR s.unscored <> w.images_unscored
                OR s.body_parts <> w.body_parts OR w.ranked_by <> :ranked_by
      END;
