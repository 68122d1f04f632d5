-- Studies that are kept off the worklist because somebody has read them elsewhere (FRACTURE_LIST_LABELLED=false), and
-- of how many images that was decided: a further image is looked at anew. A study that is listed all the same is listed:
-- its row here is history.
CREATE TABLE fracture.unlisted_study (
    study_key  text        PRIMARY KEY,
    images     integer     NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now()
);

-- What people reported or closed, the last changed first.
CREATE INDEX worklist_finished ON fracture.worklist (updated_at DESC, study_key) WHERE status IN ('reported', 'closed');
