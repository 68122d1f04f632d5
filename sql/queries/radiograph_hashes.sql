-- The perceptual hashes of all radiographs, oldest first, packed as 8 bytes each (big-endian) beside their ids and the
-- ids of the first pictures of their clusters.
-- parameters: none      returns: ids bytea, hashes bytea, clusters bytea (NULL where there are no radiographs)
SELECT string_agg(int8send(radiograph_id), '' ORDER BY radiograph_id) AS ids,
       string_agg(int8send(perceptual_hash), '' ORDER BY radiograph_id) AS hashes,
       string_agg(int8send(coalesce(cluster_id, radiograph_id)), '' ORDER BY radiograph_id) AS clusters
FROM fracture.radiograph;
