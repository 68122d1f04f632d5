-- Outcomes without a score that somebody took back, so that the radiograph was due again: a bucket that was mended.
CREATE TABLE fracture.retried_prediction (
    retried_prediction_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version               integer     NOT NULL,
    radiograph_id         bigint      NOT NULL,
    reason                text        NOT NULL,
    scored_at             timestamptz NOT NULL,
    transaction_id        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    retried_at            timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER retried_prediction_append_only BEFORE UPDATE OR DELETE ON fracture.retried_prediction
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- As before; a prediction leaves also with the note of the transaction that took it back.
CREATE OR REPLACE FUNCTION fracture.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME IN ('label', 'prediction', 'worklist_event', 'retried_object',
                                                  'retried_prediction')
       AND EXISTS (SELECT FROM fracture.erasure
                   WHERE transaction_id = pg_current_xact_id() AND erased_at = now()) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'prediction'
       AND EXISTS (SELECT FROM fracture.retried_prediction
                   WHERE transaction_id = pg_current_xact_id() AND retried_at = now()) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'fracture.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- A score is never taken back, and a reason only with its own note: else a prediction leaves with an erasure alone.
CREATE FUNCTION fracture.refuse_to_take_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fracture.erasure
                   WHERE transaction_id = pg_current_xact_id() AND erased_at = now())
       AND (OLD.probability IS NOT NULL
            OR NOT EXISTS (SELECT FROM fracture.retried_prediction
                           WHERE transaction_id = pg_current_xact_id() AND retried_at = now()
                             AND version = OLD.version AND radiograph_id = OLD.radiograph_id)) THEN
        RAISE EXCEPTION 'fracture.prediction is append-only' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER prediction_score_stays BEFORE DELETE ON fracture.prediction
    FOR EACH ROW EXECUTE FUNCTION fracture.refuse_to_take_back();

-- Reasons are rare, and asked for every hour.
CREATE INDEX prediction_unscored ON fracture.prediction (radiograph_id, version) WHERE reason IS NOT NULL;
CREATE INDEX retried_prediction_radiograph ON fracture.retried_prediction (radiograph_id);
