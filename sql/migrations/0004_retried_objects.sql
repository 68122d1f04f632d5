-- What objects were quarantined for before they were tried again, as after a change of settings.
CREATE TABLE fracture.retried_object (
    received_object_id bigint      PRIMARY KEY,             -- of the outcome that was taken back
    object_key         text        NOT NULL,
    etag               text        NOT NULL,
    size_bytes         bigint      NOT NULL,
    code               text        NOT NULL,
    sentence           text        NOT NULL,
    received_at        timestamptz NOT NULL,
    retried_at         timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER retried_object_append_only BEFORE UPDATE OR DELETE ON fracture.retried_object
    FOR EACH STATEMENT EXECUTE FUNCTION fracture.refuse_change();
