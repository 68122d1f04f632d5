-- Whether any migration was ever applied here.
-- parameters: none      returns: has_ledger boolean
SELECT to_regclass('fracture.migration') IS NOT NULL AS has_ledger;
