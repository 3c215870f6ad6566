-- The schema of the embedded store. It enforces the log for manual SQL as well: a change to a key that
-- could make a cached answer wrong always writes a log row.
--
-- Times are microseconds since the Unix epoch, UTC. Ids are the 16 bytes of a UUIDv7.

-- The newest time that this store has used. The time of a write is max(newest, wall clock), so stored
-- times never fall.
CREATE TABLE store_clock (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    newest   INTEGER NOT NULL,
    -- How often an operator has lowered newest, because the clock had been ahead.
    lowered  INTEGER NOT NULL
) STRICT;
INSERT INTO store_clock VALUES (1, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER), 0);

-- The log's counter: always the last revision of the log.
CREATE TABLE log_head (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    revision  INTEGER NOT NULL
) STRICT;
INSERT INTO log_head VALUES (1, 0);

CREATE TABLE log_state (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    -- Rows before this revision are trimmed. The row with this revision stays.
    pruned_to    INTEGER NOT NULL,
    incarnation  INTEGER NOT NULL,
    -- For how long a near-cache of this process may be fresh after a crash. NULL: there is none.
    near_bound   INTEGER CHECK (near_bound > 0)
) STRICT;
INSERT INTO log_state VALUES (1, 0, 1, NULL);

-- The log: one row for each change, in commit order, without gaps. The last row is the head.
CREATE TABLE key_changes (
    revision  INTEGER PRIMARY KEY,
    -- Random: distinguishes this log from another log with the same revisions.
    mark      BLOB NOT NULL CHECK (length(mark) = 8),
    -- The key or the caller's token that changed. NULL only in the first row; all zeros for an import.
    key_id    BLOB CHECK (length(key_id) = 16) CHECK ((key_id IS NULL) = (revision = 0)),
    kind      TEXT NOT NULL CHECK (kind IN ('origin', 'update', 'revoke', 'delete', 'import')),
    -- The caller's name. NULL for a manual change.
    actor     TEXT,
    reason    TEXT,
    time      INTEGER NOT NULL
) STRICT;
INSERT INTO key_changes
SELECT 0, randomblob(8), NULL, 'origin', NULL, NULL, newest FROM store_clock;

CREATE TABLE api_keys (
    key_id         BLOB PRIMARY KEY CHECK (length(key_id) = 16),
    -- HMAC-SHA256 of the key text, with the pepper of the generation. For an imported key: of what
    -- was known of its text, with the foreign pepper.
    digest         BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    -- NULL for an imported key.
    generation     INTEGER,
    -- The import that brought the key; NULL for a key of our own.
    import_batch   BLOB CHECK ((import_batch IS NOT NULL) = (generation IS NULL))
                        CHECK (length(import_batch) = 16),
    account_id     TEXT NOT NULL CHECK (length(account_id) BETWEEN 1 AND 128),
    -- The slot of the account.
    name           TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    hint           TEXT NOT NULL,
    scopes         TEXT NOT NULL CHECK (json_type(scopes) = 'array'),
    metadata       TEXT NOT NULL CHECK (json_type(metadata) = 'object'),
    allowed_cidrs  TEXT NOT NULL CHECK (json_type(allowed_cidrs) = 'array'),
    recoverable    INTEGER NOT NULL CHECK (recoverable IN (0, 1)),
    -- The sealed copy of a recoverable key. A trigger wipes it when revoke_time is set.
    sealed         BLOB CHECK (sealed IS NULL OR recoverable = 1),
    disabled       INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    create_time    INTEGER NOT NULL,
    expire_time    INTEGER,
    -- From this time on the key is dead. In the future during a grace.
    revoke_time    INTEGER,
    -- The key is dead, at any time. A trigger sets it when revoke_time has come; it is never unset.
    revoked        INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1) AND (revoked = 0 OR revoke_time IS NOT NULL)),
    revoke_reason  TEXT CHECK (revoke_reason IS NULL OR revoke_time IS NOT NULL),
    replaced_by    BLOB CHECK (replaced_by IS NULL OR (length(replaced_by) = 16 AND revoke_time IS NOT NULL)),
    -- The caller of the change in progress. The trigger copies it to the log.
    changed_by     TEXT,
    -- The last change of this row and its mark, written by the trigger. Revision 0 and a mark: the row
    -- of an import in the log.
    revision       INTEGER NOT NULL DEFAULT 0,
    mark           BLOB
) STRICT, WITHOUT ROWID;

-- A slot holds at most one key without revoke time.
CREATE UNIQUE INDEX api_keys_slot ON api_keys (account_id, name) WHERE revoke_time IS NULL;
CREATE INDEX api_keys_account ON api_keys (account_id, key_id);
CREATE INDEX api_keys_batch ON api_keys (import_batch, key_id)
 WHERE revoked = 0 AND import_batch IS NOT NULL;
-- The copies under a sealing key, whose version is the first 4 bytes.
CREATE INDEX api_keys_seals ON api_keys (substr(sealed, 1, 4), key_id) WHERE sealed IS NOT NULL;
CREATE INDEX api_keys_graces ON api_keys (revoke_time) WHERE revoked = 0 AND revoke_time IS NOT NULL;
CREATE INDEX api_keys_successor ON api_keys (replaced_by) WHERE replaced_by IS NOT NULL;
-- Lists of the keys in one state.
CREATE INDEX api_keys_revoked ON api_keys (key_id) WHERE revoke_time IS NOT NULL;
CREATE INDEX api_keys_expiring ON api_keys (key_id) WHERE expire_time IS NOT NULL AND NOT revoked;
CREATE INDEX api_keys_disabled ON api_keys (key_id) WHERE disabled AND NOT revoked;
-- The next keys to expire.
CREATE INDEX api_keys_expiry ON api_keys (expire_time, key_id)
    WHERE expire_time IS NOT NULL AND revoke_time IS NULL;

-- When each key was accepted last, and how often it was refused because it was dead. A key that was
-- neither has no row. A use is no change of the key: it has no row in the log.
CREATE TABLE key_uses (
    key_id         BLOB PRIMARY KEY CHECK (length(key_id) = 16),
    last_use       INTEGER,
    refused_count  INTEGER NOT NULL CHECK (refused_count >= 0),
    last_refused   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE caller_tokens (
    token_id     BLOB PRIMARY KEY CHECK (length(token_id) = 16),
    digest       BLOB NOT NULL CHECK (length(digest) = 32),
    -- The generation of the secret. Without a secret, a client certificate proves the name in san.
    generation   INTEGER,
    san          TEXT CHECK (length(san) BETWEEN 1 AND 512 AND (generation IS NULL) = (san IS NOT NULL)),
    name         TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    roles        TEXT NOT NULL CHECK (length(roles) > 0),
    create_time  INTEGER NOT NULL,
    expire_time  INTEGER,
    revoke_time  INTEGER,
    -- As in api_keys.
    revoked      INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1) AND (revoked = 0 OR revoke_time IS NOT NULL)),
    changed_by   TEXT,
    revision     INTEGER NOT NULL DEFAULT 0,
    mark         BLOB
) STRICT, WITHOUT ROWID;

-- A name in certificates can have a row again after its revocation; a secret never returns.
CREATE UNIQUE INDEX caller_tokens_known ON caller_tokens (digest) WHERE san IS NULL OR revoked = 0;
CREATE INDEX caller_tokens_digest ON caller_tokens (digest);
CREATE INDEX caller_tokens_graces ON caller_tokens (revoke_time)
 WHERE revoked = 0 AND revoke_time IS NOT NULL;

-- Who did what. A row changes twice at most: when a seal covers it, and when its account is erased. Only
-- trimming deletes rows.
CREATE TABLE audit (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    time        INTEGER NOT NULL,
    actor_id    BLOB,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL CHECK (action IN
                ('issue', 'reveal', 'replace', 'revoke', 'update', 'token_create', 'token_revoke',
                 'keyring_activate', 'keyring_retire', 'account_erase', 'clock_lower', 'import',
                 'webhook_replay', 'audit_trim', 'deny')),
    subject_id  BLOB,
    account_id  TEXT,
    detail      TEXT,
    -- From where: the connection, the client that a trusted proxy forwarded, and the request.
    peer        TEXT,
    client      TEXT,
    request_id  TEXT,
    -- The place in the chain, given by a seal: see `keyward_store::audit_chain`. The salt goes with an erasure.
    position    INTEGER CHECK (position > 0),
    salt        BLOB CHECK (length(salt) = 16),
    personal    BLOB CHECK (length(personal) = 16),
    mac         BLOB CHECK (length(mac) = 16),
    CHECK ((position IS NULL) = (personal IS NULL) AND (position IS NULL) = (mac IS NULL)
           AND (salt IS NULL OR position IS NOT NULL))
) STRICT;
CREATE INDEX audit_subject ON audit (subject_id, id);
CREATE INDEX audit_account ON audit (account_id, time, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_time ON audit (time, id);
CREATE INDEX audit_unsealed ON audit (id) WHERE position IS NULL;
CREATE UNIQUE INDEX audit_chain ON audit (position) WHERE position IS NOT NULL;

-- The seals of the audit: each covers the events from the place after its predecessor's last one.
CREATE TABLE audit_seals (
    number         INTEGER PRIMARY KEY CHECK (number > 0),
    time           INTEGER NOT NULL,
    last_position  INTEGER NOT NULL UNIQUE,
    last_event     BLOB NOT NULL CHECK (length(last_event) = 16),
    complete       INTEGER NOT NULL CHECK (complete IN (0, 1)),
    key_version    INTEGER NOT NULL CHECK (key_version BETWEEN 1 AND 4294967295),
    previous       BLOB NOT NULL CHECK (length(previous) = 32),
    mac            BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT;

-- What was trimmed: the seals before `first_seal`. 0: nothing.
CREATE TABLE audit_state (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    first_seal  INTEGER NOT NULL,
    proof       BLOB NOT NULL
) STRICT;
INSERT INTO audit_state VALUES (1, 0, x'');

-- The check values of the keyring: what each of its keys computes from a fixed text.
CREATE TABLE keyring_checks (
    kind         TEXT NOT NULL CHECK (kind IN ('generation', 'seal', 'foreign', 'import', 'audit')),
    number       INTEGER NOT NULL,
    check_value  BLOB NOT NULL CHECK (length(check_value) = 16),
    -- 'loaded': the service has the key, and nothing needs it. 'required': the service needs it.
    -- 'retired': nothing is made with it any more, and nothing needs it.
    state        TEXT NOT NULL DEFAULT 'required' CHECK (state IN ('loaded', 'required', 'retired')),
    -- The one generation of new keys, the one sealing key of new copies, the one audit key of new seals.
    active       INTEGER NOT NULL DEFAULT 0
                 CHECK (active IN (0, 1)
                        AND (active = 0 OR (kind IN ('generation', 'seal', 'audit') AND state = 'required'))),
    PRIMARY KEY (kind, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX keyring_active ON keyring_checks (kind) WHERE active = 1;

-- Accounts whose erasure has begun. No other change of the account of a key is allowed.
CREATE TABLE erasures (
    account_id  TEXT PRIMARY KEY,
    pseudonym   TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

-- The prefixes that keys were given: a start warns if its `key_prefixes` lacks one that keys have.
CREATE TABLE key_prefixes (
    prefix  TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- The webhooks that the service names. While there is none, no event is written.
CREATE TABLE webhooks (
    name       TEXT PRIMARY KEY,
    -- The kinds of events that are written for it: an array.
    events     TEXT NOT NULL CHECK (json_type(events) = 'array'),
    -- When the service has named it last.
    seen_time  INTEGER NOT NULL,
    -- The receiver has said that it is gone: nothing is sent until an operator replays events.
    gone       INTEGER NOT NULL DEFAULT 0 CHECK (gone IN (0, 1))
) STRICT, WITHOUT ROWID;

-- The events for webhooks: a row for each webhook that gets one. Triggers write them. Account and name of the
-- key are not here, so that its erasure need not change a row.
CREATE TABLE webhook_events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What the receiver knows the event by.
    message_id  BLOB NOT NULL CHECK (length(message_id) = 16),
    webhook     TEXT NOT NULL,
    key_id      BLOB NOT NULL CHECK (length(key_id) = 16),
    type        TEXT NOT NULL CHECK (type IN ('key.issued', 'key.revoked', 'key.expiring', 'key.refused')),
    time        INTEGER NOT NULL,
    -- The time that the event tells: of the expiry, of the revocation, or of the refusal.
    at          INTEGER,
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    -- When it may be claimed.
    due         INTEGER NOT NULL,
    -- Whether it is due when the event before it is, about the same key, for which it waits.
    queued      INTEGER NOT NULL DEFAULT 0 CHECK (queued IN (0, 1) AND (queued = 0 OR state = 'waiting')),
    claims      INTEGER NOT NULL DEFAULT 0,
    failures    INTEGER NOT NULL DEFAULT 0,
    done_time   INTEGER CHECK ((done_time IS NULL) = (state = 'waiting'))
) STRICT;
-- The conditions say in different ways that an event waits, so that a statement can use few of the indexes: a plan
-- that is made while a table is small may choose any that it can use.
CREATE INDEX webhook_events_due ON webhook_events (webhook, due, id) WHERE state = 'waiting';
CREATE INDEX webhook_events_key ON webhook_events (webhook, key_id, id) WHERE state = 'waiting';
CREATE INDEX webhook_events_queued ON webhook_events (webhook, key_id) WHERE queued;
CREATE INDEX webhook_events_oldest ON webhook_events (webhook, time) WHERE done_time IS NULL;
CREATE INDEX webhook_events_failing ON webhook_events (webhook, time, id)
 WHERE failures > 0 AND state NOT IN ('delivered', 'dead');
CREATE INDEX webhook_events_dead ON webhook_events (webhook, time, id) WHERE state = 'dead';
CREATE INDEX webhook_events_ended ON webhook_events (webhook, time, id) WHERE done_time IS NOT NULL;
CREATE UNIQUE INDEX webhook_events_message ON webhook_events (message_id);
CREATE INDEX webhook_events_done ON webhook_events (done_time) WHERE done_time IS NOT NULL;

-- The keys about whose expiry an event was written, with that expiry.
CREATE TABLE expiry_notices (
    key_id       BLOB PRIMARY KEY CHECK (length(key_id) = 16),
    expire_time  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX expiry_notices_time ON expiry_notices (expire_time);

-- An INSERT into this view writes an event for each webhook that gets its kind, at the store's time.
CREATE VIEW webhook_event AS
SELECT key_id, type, at FROM webhook_events WHERE 0;

CREATE TRIGGER webhook_event_append INSTEAD OF INSERT ON webhook_event
BEGIN
    INSERT INTO webhook_events (message_id, webhook, key_id, type, time, at, due)
    SELECT randomblob(16), w.name, NEW.key_id, NEW.type, newest, NEW.at, newest
      FROM webhooks AS w, store_clock
     WHERE EXISTS (SELECT 1 FROM json_each(w.events) WHERE value = NEW.type);
END;

-- An INSERT into this view appends a log row with the next revision and a time that does not fall.
-- All triggers that log use it.
CREATE VIEW log_change AS
SELECT key_id, kind, actor, reason FROM key_changes WHERE 0;

CREATE TRIGGER log_change_append INSTEAD OF INSERT ON log_change
BEGIN
    UPDATE store_clock
       SET newest = max(newest, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER));
    INSERT INTO key_changes (revision, mark, key_id, kind, actor, reason, time)
    SELECT revision + 1, randomblob(8), NEW.key_id, NEW.kind, NEW.actor, NEW.reason, newest
      FROM log_head, store_clock;
END;

-- I3: rows are only appended to the log, with consecutive revisions, and only trimming deletes rows.
CREATE TRIGGER key_changes_in_order BEFORE INSERT ON key_changes
WHEN NEW.revision IS NOT (SELECT max(revision) + 1 FROM key_changes)
  OR NEW.revision IS NOT (SELECT revision + 1 FROM log_head)
BEGIN
    SELECT RAISE(ABORT, 'key_changes is appended to, one revision after the other');
END;

CREATE TRIGGER key_changes_counted AFTER INSERT ON key_changes
BEGIN
    UPDATE log_head SET revision = NEW.revision;
END;

CREATE TRIGGER key_changes_fixed BEFORE UPDATE ON key_changes
BEGIN
    SELECT RAISE(ABORT, 'key_changes cannot be rewritten');
END;

CREATE TRIGGER key_changes_kept BEFORE DELETE ON key_changes
WHEN OLD.revision >= (SELECT pruned_to FROM log_state)
BEGIN
    SELECT RAISE(ABORT, 'only rows before log_state.pruned_to may be trimmed');
END;

CREATE TRIGGER log_head_follows BEFORE UPDATE ON log_head
WHEN NEW.revision IS NOT (SELECT max(revision) FROM key_changes)
BEGIN
    SELECT RAISE(ABORT, 'log_head is the last revision of key_changes');
END;

CREATE TRIGGER log_head_kept BEFORE DELETE ON log_head
BEGIN
    SELECT RAISE(ABORT, 'log_head has one row, for ever');
END;

CREATE TRIGGER log_state_rises BEFORE UPDATE ON log_state
WHEN NEW.pruned_to < OLD.pruned_to
  OR NEW.pruned_to > (SELECT max(revision) FROM key_changes)
  OR NEW.incarnation < OLD.incarnation
BEGIN
    SELECT RAISE(ABORT, 'log_state only rises, and pruned_to names a row of the log');
END;

CREATE TRIGGER log_state_kept BEFORE DELETE ON log_state
BEGIN
    SELECT RAISE(ABORT, 'log_state has one row, for ever');
END;

CREATE TRIGGER log_head_one BEFORE INSERT ON log_head
BEGIN
    SELECT RAISE(ABORT, 'log_head has one row, for ever');
END;

CREATE TRIGGER log_state_one BEFORE INSERT ON log_state
BEGIN
    SELECT RAISE(ABORT, 'log_state has one row, for ever');
END;

CREATE TRIGGER store_clock_one BEFORE INSERT ON store_clock
BEGIN
    SELECT RAISE(ABORT, 'store_clock has one row, for ever');
END;

CREATE TRIGGER store_clock_kept BEFORE DELETE ON store_clock
BEGIN
    SELECT RAISE(ABORT, 'store_clock has one row, for ever');
END;

CREATE TRIGGER store_clock_rises BEFORE UPDATE ON store_clock
WHEN NEW.newest < OLD.newest AND NEW.lowered <= OLD.lowered
BEGIN
    SELECT RAISE(ABORT, 'stored time never falls');
END;

-- A revocation must not depend on the time that is taken back.
CREATE TRIGGER store_clock_lowered BEFORE UPDATE ON store_clock
WHEN NEW.newest < OLD.newest
 AND (EXISTS (SELECT 1 FROM api_keys WHERE revoked = 0 AND revoke_time IS NOT NULL)
      OR EXISTS (SELECT 1 FROM caller_tokens WHERE revoked = 0 AND revoke_time IS NOT NULL))
BEGIN
    SELECT RAISE(ABORT, 'stored time falls only when no grace runs: use keyward clock lower');
END;

-- An INSERT that would REPLACE a row is refused, because it would bypass the log.
CREATE TRIGGER api_keys_new BEFORE INSERT ON api_keys
WHEN EXISTS (SELECT 1 FROM api_keys WHERE key_id = NEW.key_id)
  OR EXISTS (SELECT 1 FROM api_keys WHERE digest = NEW.digest)
  OR (NEW.revoke_time IS NULL AND EXISTS (
        SELECT 1 FROM api_keys
         WHERE account_id = NEW.account_id AND name = NEW.name AND revoke_time IS NULL))
BEGIN
    SELECT RAISE(ABORT, 'a key with this key_id, digest or slot exists');
END;

CREATE TRIGGER api_keys_born_clean BEFORE INSERT ON api_keys
WHEN NEW.revision <> 0 OR NEW.changed_by IS NOT NULL
  OR (NEW.mark IS NOT NULL
      AND (NEW.import_batch IS NULL
           OR NEW.mark IS NOT (SELECT mark FROM key_changes
                                WHERE revision = (SELECT revision FROM log_head) AND kind = 'import')))
  OR (NEW.sealed IS NOT NULL AND NEW.revoke_time IS NOT NULL)
BEGIN
    SELECT RAISE(ABORT, 'revision, mark and changed_by are not for an INSERT, nor a seal for a revoked key');
END;

-- An INSERT of a new random key is not logged, because no cache can hold it. An imported key may have
-- been asked for before, so that caches hold that there is no such key: a log row about the id of all
-- zeros outdates that. The service logs one such row for all keys of its transaction, and gives them
-- its mark.
CREATE TRIGGER api_keys_imported AFTER INSERT ON api_keys
WHEN NEW.import_batch IS NOT NULL AND NEW.mark IS NULL
BEGIN
    INSERT INTO log_change (key_id, kind, actor, reason) VALUES (zeroblob(16), 'import', NULL, NULL);
END;

CREATE TRIGGER api_keys_fixed BEFORE UPDATE ON api_keys
WHEN NEW.key_id IS NOT OLD.key_id
  OR NEW.digest IS NOT OLD.digest
  OR NEW.generation IS NOT OLD.generation
  OR NEW.import_batch IS NOT OLD.import_batch
  OR NEW.hint IS NOT OLD.hint
  OR NEW.recoverable IS NOT OLD.recoverable
  OR NEW.create_time IS NOT OLD.create_time
BEGIN
    SELECT RAISE(ABORT, 'key_id, digest, generation, import_batch, hint, recoverable and create_time of a key never change');
END;

-- The account and the name of a key change only when its account is erased.
CREATE TRIGGER api_keys_erased BEFORE UPDATE OF account_id, name ON api_keys
WHEN (NEW.account_id, NEW.name) IS NOT (OLD.account_id, OLD.name)
 AND (OLD.revoked = 0 OR NEW.name <> NEW.account_id
      OR NOT EXISTS (SELECT 1 FROM erasures
                      WHERE account_id = OLD.account_id AND pseudonym = NEW.account_id))
BEGIN
    SELECT RAISE(ABORT, 'account_id and name of a key never change, unless its account is erased');
END;

-- Nothing is made with a retired key of the keyring.
CREATE TRIGGER api_keys_minted BEFORE INSERT ON api_keys
WHEN EXISTS (SELECT 1 FROM keyring_checks
              WHERE kind = 'generation' AND number = NEW.generation AND state = 'retired')
BEGIN
    SELECT RAISE(ABORT, 'the generation is retired');
END;

CREATE TRIGGER api_keys_sealed_new BEFORE INSERT ON api_keys
WHEN NEW.sealed IS NOT NULL
 AND EXISTS (SELECT 1 FROM keyring_checks
              WHERE kind = 'seal' AND printf('%08X', number) = hex(substr(NEW.sealed, 1, 4))
                AND state = 'retired')
BEGIN
    SELECT RAISE(ABORT, 'the sealing key is retired');
END;

CREATE TRIGGER api_keys_sealed_again BEFORE UPDATE OF sealed ON api_keys
WHEN NEW.sealed IS NOT NULL AND NEW.sealed IS NOT OLD.sealed
 AND EXISTS (SELECT 1 FROM keyring_checks
              WHERE kind = 'seal' AND printf('%08X', number) = hex(substr(NEW.sealed, 1, 4))
                AND state = 'retired')
BEGIN
    SELECT RAISE(ABORT, 'the sealing key is retired');
END;

-- A wiped sealed copy cannot be restored.
CREATE TRIGGER api_keys_sealed BEFORE UPDATE OF sealed ON api_keys
WHEN OLD.revoke_time IS NOT NULL AND NEW.sealed IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a revoked key keeps no sealed copy');
END;

-- The revision and mark of a row are those of its last change: a repeated Revoke waits for them. They
-- change together with no column of the record but `revoked`, so such an UPDATE needs no log row.
CREATE TRIGGER api_keys_revision BEFORE UPDATE OF revision, mark ON api_keys
WHEN (NEW.revision IS NOT OLD.revision OR NEW.mark IS NOT OLD.mark)
 AND (NOT EXISTS (SELECT 1 FROM key_changes
                   WHERE revision = NEW.revision AND mark = NEW.mark AND key_id = NEW.key_id
                     AND revision = (SELECT revision FROM log_head))
      OR (NEW.scopes, NEW.metadata, NEW.allowed_cidrs, NEW.disabled, NEW.expire_time,
          NEW.revoke_time, NEW.revoke_reason, NEW.replaced_by)
         IS NOT (OLD.scopes, OLD.metadata, OLD.allowed_cidrs, OLD.disabled, OLD.expire_time,
          OLD.revoke_time, OLD.revoke_reason, OLD.replaced_by))
BEGIN
    SELECT RAISE(ABORT, 'revision and mark are written by the triggers alone');
END;

-- A revoked key stays revoked, a grace can only become shorter, and a successor never changes.
CREATE TRIGGER api_keys_terminal BEFORE UPDATE ON api_keys
WHEN OLD.revoke_time IS NOT NULL
 AND (NEW.revoke_time IS NULL
      OR NEW.revoke_time > OLD.revoke_time
      OR NEW.revoked < OLD.revoked
      OR NEW.replaced_by IS NOT OLD.replaced_by)
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked, its revoke_time can only become earlier, and its successor is fixed');
END;

CREATE TRIGGER api_keys_changed
AFTER UPDATE OF key_id, account_id, name, scopes, metadata, allowed_cidrs, disabled, expire_time, revoke_time, revoked,
                revoke_reason, replaced_by ON api_keys
WHEN NEW.revision IS OLD.revision
BEGIN
    INSERT INTO log_change (key_id, kind, actor, reason)
    VALUES (NEW.key_id,
            CASE WHEN NEW.revoke_time IS NOT OLD.revoke_time OR NEW.revoked <> OLD.revoked
                 THEN 'revoke' ELSE 'update' END,
            NEW.changed_by, NEW.revoke_reason);
    -- Makes a revocation a fact as soon as its time has come: afterwards no clock can undo it. The
    -- INSERT has stored the time. This UPDATE changes the revision, so it does not fire the trigger.
    UPDATE api_keys
       SET revision = (SELECT revision FROM log_head),
           mark = (SELECT mark FROM key_changes WHERE revision = (SELECT revision FROM log_head)),
           changed_by = NULL,
           revoked = NEW.revoked
                     OR coalesce(NEW.revoke_time <= (SELECT newest FROM store_clock), 0),
           sealed = CASE WHEN NEW.revoke_time IS NULL THEN NEW.sealed END
     WHERE key_id = NEW.key_id;
END;

-- As far as an INSERT gives a revoke_time, it is a change: the trigger above makes it a fact.
CREATE TRIGGER api_keys_born_revoked AFTER INSERT ON api_keys
WHEN NEW.revoke_time IS NOT NULL AND NOT NEW.revoked
BEGIN
    UPDATE api_keys SET revoke_time = revoke_time WHERE key_id = NEW.key_id;
END;

-- Events for webhooks: a new key, a new end of a key, the first refusal of a key on a day.
CREATE TRIGGER api_keys_issue_told AFTER INSERT ON api_keys
WHEN NEW.import_batch IS NULL AND EXISTS (SELECT 1 FROM webhooks)
BEGIN
    INSERT INTO webhook_event (key_id, type, at) VALUES (NEW.key_id, 'key.issued', NEW.expire_time);
END;

CREATE TRIGGER api_keys_end_told AFTER UPDATE OF revoke_time ON api_keys
WHEN NEW.revoke_time IS NOT OLD.revoke_time AND EXISTS (SELECT 1 FROM webhooks)
BEGIN
    INSERT INTO webhook_event (key_id, type, at) VALUES (NEW.key_id, 'key.revoked', NEW.revoke_time);
END;

CREATE TRIGGER key_uses_refusal_told AFTER INSERT ON key_uses
WHEN NEW.last_refused IS NOT NULL AND EXISTS (SELECT 1 FROM webhooks)
BEGIN
    INSERT INTO webhook_event (key_id, type, at) VALUES (NEW.key_id, 'key.refused', NEW.last_refused);
END;

CREATE TRIGGER key_uses_refusal_told_again AFTER UPDATE OF last_refused ON key_uses
WHEN NEW.last_refused / 86400000000 > coalesce(OLD.last_refused / 86400000000, -1)
 AND EXISTS (SELECT 1 FROM webhooks)
BEGIN
    INSERT INTO webhook_event (key_id, type, at) VALUES (NEW.key_id, 'key.refused', NEW.last_refused);
END;

CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
BEGIN
    INSERT INTO log_change (key_id, kind, actor, reason) VALUES (OLD.key_id, 'delete', NULL, NULL);
    DELETE FROM key_uses WHERE key_id = OLD.key_id;
END;

CREATE TRIGGER caller_tokens_new BEFORE INSERT ON caller_tokens
WHEN EXISTS (SELECT 1 FROM caller_tokens WHERE token_id = NEW.token_id)
  OR EXISTS (SELECT 1 FROM caller_tokens WHERE digest = NEW.digest AND (san IS NULL OR revoked = 0))
  OR NEW.revision <> 0 OR NEW.mark IS NOT NULL OR NEW.changed_by IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a token with this token_id or digest exists, or revision, mark or changed_by were given');
END;

CREATE TRIGGER caller_tokens_minted BEFORE INSERT ON caller_tokens
WHEN EXISTS (SELECT 1 FROM keyring_checks
              WHERE kind = 'generation' AND number = NEW.generation AND state = 'retired')
BEGIN
    SELECT RAISE(ABORT, 'the generation is retired');
END;

CREATE TRIGGER caller_tokens_fixed BEFORE UPDATE ON caller_tokens
WHEN NEW.token_id IS NOT OLD.token_id
  OR NEW.digest IS NOT OLD.digest
  OR NEW.generation IS NOT OLD.generation
  OR NEW.san IS NOT OLD.san
  OR NEW.create_time IS NOT OLD.create_time
  OR (OLD.revoke_time IS NOT NULL
      AND (NEW.revoke_time IS NULL OR NEW.revoke_time > OLD.revoke_time
           OR NEW.revoked < OLD.revoked))
BEGIN
    SELECT RAISE(ABORT, 'token_id, digest, generation, san and create_time of a token never change, and a revoked token stays revoked');
END;

CREATE TRIGGER caller_tokens_revision BEFORE UPDATE OF revision, mark ON caller_tokens
WHEN (NEW.revision IS NOT OLD.revision OR NEW.mark IS NOT OLD.mark)
 AND (NOT EXISTS (SELECT 1 FROM key_changes
                   WHERE revision = NEW.revision AND mark = NEW.mark AND key_id = NEW.token_id
                     AND revision = (SELECT revision FROM log_head))
      OR (NEW.name, NEW.roles, NEW.expire_time, NEW.revoke_time)
         IS NOT (OLD.name, OLD.roles, OLD.expire_time, OLD.revoke_time))
BEGIN
    SELECT RAISE(ABORT, 'revision and mark are written by the triggers alone');
END;

CREATE TRIGGER caller_tokens_changed
AFTER UPDATE OF token_id, name, roles, expire_time, revoke_time, revoked ON caller_tokens
WHEN NEW.revision IS OLD.revision
BEGIN
    INSERT INTO log_change (key_id, kind, actor, reason)
    VALUES (NEW.token_id,
            CASE WHEN NEW.revoke_time IS NOT OLD.revoke_time OR NEW.revoked <> OLD.revoked
                 THEN 'revoke' ELSE 'update' END,
            NEW.changed_by, NULL);
    UPDATE caller_tokens
       SET revision = (SELECT revision FROM log_head),
           mark = (SELECT mark FROM key_changes WHERE revision = (SELECT revision FROM log_head)),
           changed_by = NULL,
           revoked = NEW.revoked
                     OR coalesce(NEW.revoke_time <= (SELECT newest FROM store_clock), 0)
     WHERE token_id = NEW.token_id;
END;

CREATE TRIGGER caller_tokens_born_revoked AFTER INSERT ON caller_tokens
WHEN NEW.revoke_time IS NOT NULL AND NOT NEW.revoked
BEGIN
    UPDATE caller_tokens SET revoke_time = revoke_time WHERE token_id = NEW.token_id;
END;

CREATE TRIGGER caller_tokens_deleted AFTER DELETE ON caller_tokens
BEGIN
    INSERT INTO log_change (key_id, kind, actor, reason) VALUES (OLD.token_id, 'delete', NULL, NULL);
END;

-- An event changes only when a seal gives it its place, and when the account that it names is erased.
CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit
WHEN (NEW.id, NEW.time, NEW.actor_id, NEW.actor, NEW.action, NEW.subject_id, NEW.detail)
     IS NOT (OLD.id, OLD.time, OLD.actor_id, OLD.actor, OLD.action, OLD.subject_id, OLD.detail)
  OR NOT CASE WHEN OLD.position IS NULL AND NEW.position IS NOT NULL
         THEN (NEW.account_id, NEW.peer, NEW.client, NEW.request_id)
              IS (OLD.account_id, OLD.peer, OLD.client, OLD.request_id)
         ELSE (NEW.position, NEW.personal, NEW.mac) IS (OLD.position, OLD.personal, OLD.mac)
              AND coalesce(NEW.peer, NEW.client, NEW.request_id, NEW.salt) IS NULL
              AND EXISTS (SELECT 1 FROM erasures
                           WHERE account_id = OLD.account_id AND pseudonym = NEW.account_id)
         END
BEGIN
    SELECT RAISE(ABORT, 'audit cannot be rewritten');
END;

-- Events and seals are deleted only by trimming, which first names the seal with which the chain begins.
CREATE TRIGGER audit_deleted BEFORE DELETE ON audit
WHEN (OLD.position <= (SELECT last_position FROM audit_seals
                        WHERE number = (SELECT first_seal FROM audit_state))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'audit cannot be rewritten: only trimming deletes its events');
END;

CREATE TRIGGER audit_seals_deleted BEFORE DELETE ON audit_seals
WHEN OLD.number >= (SELECT first_seal FROM audit_state)
BEGIN
    SELECT RAISE(ABORT, 'audit_seals cannot be rewritten: only trimming deletes seals');
END;

CREATE TRIGGER audit_seals_fixed BEFORE UPDATE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'audit_seals cannot be rewritten');
END;

CREATE TRIGGER audit_seals_appended BEFORE INSERT ON audit_seals
WHEN NEW.number <= (SELECT max(number) FROM audit_seals)
BEGIN
    SELECT RAISE(ABORT, 'audit_seals is appended to, one seal after the other');
END;

CREATE TRIGGER audit_seals_made BEFORE INSERT ON audit_seals
WHEN EXISTS (SELECT 1 FROM keyring_checks
              WHERE kind = 'audit' AND number = NEW.key_version AND state = 'retired')
BEGIN
    SELECT RAISE(ABORT, 'the audit key is retired');
END;

CREATE TRIGGER audit_state_kept BEFORE DELETE ON audit_state
BEGIN
    SELECT RAISE(ABORT, 'audit_state has one row, for ever');
END;

CREATE TRIGGER audit_state_one BEFORE INSERT ON audit_state
BEGIN
    SELECT RAISE(ABORT, 'audit_state has one row, for ever');
END;

CREATE TRIGGER audit_state_rises BEFORE UPDATE ON audit_state
WHEN NEW.first_seal <= OLD.first_seal
BEGIN
    SELECT RAISE(ABORT, 'audit_state only rises');
END;

-- Refuses an INSERT that would REPLACE a row.
CREATE TRIGGER audit_appended BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'audit cannot be rewritten');
END;
