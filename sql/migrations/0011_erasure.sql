-- What was taken out for good, on whose word. Its row is what opens the append-only tables, in its own transaction.
CREATE TABLE fracture.erasure (
    erasure_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor          text        NOT NULL,
    reason         text        NOT NULL,                    -- a ticket's number, say; never a person
    details        jsonb       NOT NULL,                    -- radiograph ids, counts, who learned from them
    transaction_id xid8        NOT NULL DEFAULT pg_current_xact_id(),
    erased_at      timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER erasure_append_only BEFORE UPDATE OR DELETE ON fracture.erasure
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- Keyed hashes of what must not come back: of a file's bytes, and of what label files said of whom.
CREATE TABLE fracture.erased_name (
    name_hash  text   PRIMARY KEY,
    erasure_id bigint NOT NULL REFERENCES fracture.erasure
);
CREATE TRIGGER erased_name_append_only BEFORE UPDATE OR DELETE ON fracture.erased_name
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();

-- As before; rows of these four leave with the record of an erasure, which the same transaction wrote before.
CREATE OR REPLACE FUNCTION fracture.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME IN ('label', 'prediction', 'worklist_event', 'retried_object')
       AND EXISTS (SELECT FROM fracture.erasure
                   WHERE transaction_id = pg_current_xact_id() AND erased_at = now()) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'fracture.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- A label that speaks of several files is told by each of them, and outlives the one that told it first.
ALTER TABLE fracture.label DROP CONSTRAINT label_received_object_id_fkey;
