-- Every model version and all that happened to it, newest first: who approved it, when and why.
-- parameters: none      returns: version int, event text, actor text, reason text, happened_at timestamptz,
--             is_champion boolean, auroc text and accuracy text (on the test split, NULL where not measured),
--             snapshot_id text
SELECT e.version, e.event, e.actor, e.reason, e.happened_at,
       e.version IS NOT DISTINCT FROM (SELECT c.version FROM fracture.champion c) AS is_champion,
       v.metrics #>> '{auroc,value}' AS auroc,
       v.metrics #>> '{at_half,accuracy,value}' AS accuracy,
       v.snapshot_id::text AS snapshot_id
FROM fracture.model_event e
JOIN fracture.model_version v USING (version)
ORDER BY e.model_event_id DESC;
