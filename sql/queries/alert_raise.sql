-- Something that a person must look at; while it is open it is not raised again, and says what is so now.
-- parameters: kind text, subject text, sentence text      returns: is_new boolean; no row where nothing changed
INSERT INTO fracture.alert AS a (kind, subject, sentence)
VALUES (:kind, :subject, :sentence)
ON CONFLICT (kind, subject) WHERE settled_at IS NULL DO UPDATE SET sentence = EXCLUDED.sentence
WHERE a.sentence <> EXCLUDED.sentence
RETURNING xmax = 0 AS is_new;
