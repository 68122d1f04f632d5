-- Facts of the file that are not the bone, as numbers, for the shortcut audit.
-- parameters: radiograph_ids bigint[]      returns: radiograph_id bigint and one number per fact
SELECT radiograph_id, width_px, height_px, size_bytes, bits_stored,
       size_bytes * 1.0 / (width_px * height_px) AS bytes_per_pixel,
       CAST(photometric = 'RGB' AS integer) AS is_rgb,
       CAST(photometric = 'MONOCHROME1' AS integer) AS is_monochrome1,
       CAST(media_type = 'image/jpeg' AS integer) AS is_jpeg,
       CAST(media_type = 'application/dicom' AS integer) AS is_dicom
FROM fracture.radiograph
WHERE radiograph_id = ANY(CAST(:radiograph_ids AS bigint[]));
