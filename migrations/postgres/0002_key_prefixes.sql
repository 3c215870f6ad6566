-- The prefixes that keys were given: an instance warns if its `key_prefixes` lacks one that keys have.

CREATE TABLE key_prefixes (
    prefix  text PRIMARY KEY
);
-- A hint is the prefix, an underscore and four characters.
INSERT INTO key_prefixes SELECT DISTINCT left(hint, -5) FROM api_keys;
