-- Registered versions that were neither promoted nor rejected, oldest first.
-- parameters: none      returns: version int
SELECT version
FROM fracture.model_version v
WHERE NOT EXISTS (SELECT FROM fracture.model_event e
                  WHERE e.version = v.version AND e.event IN ('promoted', 'rolled_back', 'rejected'))
ORDER BY version;
