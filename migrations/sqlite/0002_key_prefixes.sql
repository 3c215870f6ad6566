-- The prefixes that keys were given: a start warns if its `key_prefixes` lacks one that keys have.

CREATE TABLE key_prefixes (
    prefix  TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
-- A hint is the prefix, an underscore and four characters.
INSERT INTO key_prefixes SELECT DISTINCT substr(hint, 1, length(hint) - 5) FROM api_keys;
