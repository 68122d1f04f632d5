-- Hash of the rules (settings) that placed a study: under other rules an open one is placed anew. '': not known.
ALTER TABLE fracture.worklist ADD COLUMN ranked_by text NOT NULL DEFAULT '';
