-- Facts of the images that a version was trained on, for drift of the inputs.
-- parameters: version int      returns: body_part text, media_type text, view text, manufacturer text, and numbers
SELECT r.width_px, r.height_px, r.size_bytes, r.bits_stored, r.body_part, r.media_type, g.view, g.manufacturer
FROM fracture.model_version v
JOIN fracture.snapshot_member m ON m.snapshot_id = v.snapshot_id AND m.split = 'train'
JOIN fracture.radiograph r USING (radiograph_id)
JOIN fracture.radiograph_subgroup g USING (radiograph_id)
WHERE v.version = :version
ORDER BY r.radiograph_id;
