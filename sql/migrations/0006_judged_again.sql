-- The gate judges a version once against each champion: a verdict that waits for a person may outlive its champion.
DROP INDEX fracture.model_event_judged_once;
CREATE UNIQUE INDEX model_event_judged_once ON fracture.model_event (version, coalesce(details ->> 'champion', ''))
    WHERE event = 'judged';
