-- The fingerprint of the site's secret, which is this one where there was none.
-- parameters: fingerprint text      returns: fingerprint text
WITH first AS (
    INSERT INTO fracture.site_secret (fingerprint) VALUES (:fingerprint)
    ON CONFLICT (only_one) DO NOTHING
    RETURNING fingerprint
)
SELECT fingerprint FROM first
UNION ALL
SELECT fingerprint FROM fracture.site_secret;
