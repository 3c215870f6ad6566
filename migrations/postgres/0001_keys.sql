-- The schema on Postgres 15 or later. It enforces the log for manual SQL as well: a change to a key
-- that could make a cached answer wrong always writes a log row. The triggers are ENABLE ALWAYS, so
-- session_replication_role does not disable them. The functions that write the log are SECURITY
-- DEFINER with the search_path of this migration. So the service role needs no right to write the log,
-- and has none. The functions that only check writes by those functions or by the owner are not
-- SECURITY DEFINER: it costs time, and the service role cannot make such writes.
--
-- Times are the store's. Ids are UUIDv7.

-- The clock of this server. An administrator can set it, and another primary has another one.
CREATE FUNCTION server_time() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT clock_timestamp()';

-- The log's counter: the last revision of the log. Writers of changes wait for the lock of this row.
-- Readers use the last row of key_changes instead, because frequent updates bloat this table.
CREATE TABLE log_head (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision  bigint NOT NULL CHECK (revision >= 0)
) WITH (fillfactor = 10);

CREATE TABLE log_state (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Rows before this revision are trimmed. The row with this revision stays.
    pruned_to         bigint NOT NULL CHECK (pruned_to >= 0),
    -- Raised by an operator who accepts that the log lost its tail.
    incarnation       bigint NOT NULL CHECK (incarnation >= 1),
    -- The settled epoch: every instance that may be fresh has a row, so revocations can be confirmed.
    settled_system       bigint,
    settled_timeline     integer,
    settled_incarnation  bigint,
    -- The store's time is never before it, so it never falls. The instances raise it every second.
    time_floor           timestamptz NOT NULL DEFAULT server_time(),
    -- How often an operator has lowered time_floor, because the server's clock had been ahead.
    time_lowered         bigint NOT NULL DEFAULT 0,
    CHECK (num_nulls(settled_system, settled_timeline, settled_incarnation) IN (0, 3))
) WITH (fillfactor = 10);

-- The store's time, which decides whether a key has expired and whether a grace has ended.
CREATE FUNCTION store_time() RETURNS timestamptz
LANGUAGE plpgsql VOLATILE PARALLEL SAFE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN greatest(server_time(), (SELECT time_floor FROM log_state));
END
$$;

-- The log: one row for each change, in commit order, without gaps (I3). The last row is the head.
CREATE TABLE key_changes (
    revision  bigint PRIMARY KEY CHECK (revision >= 0),
    -- Random: distinguishes this log from another log with the same revisions.
    mark      bytea NOT NULL CHECK (octet_length(mark) = 8),
    -- The key or the caller's token that changed. NULL only in the first row; all zeros for an import.
    key_id    uuid CHECK ((key_id IS NULL) = (revision = 0)),
    kind      text NOT NULL CHECK (kind IN ('origin', 'update', 'revoke', 'delete', 'import')),
    -- The caller's name. NULL for a manual change.
    actor     text,
    reason    text,
    time      timestamptz NOT NULL
);

CREATE TABLE api_keys (
    key_id         uuid PRIMARY KEY,
    -- HMAC-SHA256 of the key text, with the pepper of the generation. For an imported key: of what
    -- was known of its text, with the foreign pepper.
    digest         bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    -- NULL for an imported key.
    generation     bigint CHECK (generation BETWEEN 1 AND 4294967295),
    -- The import that brought the key; NULL for a key of our own.
    import_batch   uuid CHECK ((import_batch IS NOT NULL) = (generation IS NULL)),
    account_id     text NOT NULL CHECK (length(account_id) BETWEEN 1 AND 128),
    -- The slot of the account.
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    hint           text NOT NULL,
    scopes         jsonb NOT NULL CHECK (jsonb_typeof(scopes) = 'array'),
    metadata       jsonb NOT NULL CHECK (jsonb_typeof(metadata) = 'object'),
    allowed_cidrs  jsonb NOT NULL CHECK (jsonb_typeof(allowed_cidrs) = 'array'),
    recoverable    boolean NOT NULL,
    -- The sealed copy of a recoverable key. A trigger wipes it when revoke_time is set.
    sealed         bytea CHECK (sealed IS NULL OR recoverable),
    disabled       boolean NOT NULL DEFAULT false,
    create_time    timestamptz NOT NULL,
    expire_time    timestamptz,
    -- From this time on the key is dead. In the future during a grace.
    revoke_time    timestamptz,
    -- The key is dead, at any time. A trigger sets it when revoke_time has come; it is never unset.
    revoked        boolean NOT NULL DEFAULT false CHECK (NOT revoked OR revoke_time IS NOT NULL),
    revoke_reason  text CHECK (revoke_reason IS NULL OR revoke_time IS NOT NULL),
    replaced_by    uuid CHECK (replaced_by IS NULL OR revoke_time IS NOT NULL),
    -- The caller of the change in progress. The trigger copies it to the log.
    changed_by     text,
    -- The last change of this row and its mark, written by the trigger.
    revision       bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
    mark           bytea CHECK (octet_length(mark) = 8),
    -- Excludes 'infinity' and years that the service cannot represent.
    CONSTRAINT times_are_readable CHECK (
        create_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'
        AND expire_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'
        AND revoke_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC')
) WITH (fillfactor = 80);

-- A slot holds at most one key without revoke time.
CREATE UNIQUE INDEX api_keys_slot ON api_keys (account_id, name) WHERE revoke_time IS NULL;
CREATE INDEX api_keys_account ON api_keys (account_id, key_id);
-- The steps of an account's revocation. They would slow down over the dead rows of the index above.
CREATE INDEX api_keys_live ON api_keys (account_id, key_id) WHERE NOT revoked;
CREATE INDEX api_keys_batch ON api_keys (import_batch, key_id)
 WHERE NOT revoked AND import_batch IS NOT NULL;
-- The copies under a sealing key, whose version is the first 4 bytes.
CREATE INDEX api_keys_seals ON api_keys (substring(sealed FOR 4), key_id) WHERE sealed IS NOT NULL;
CREATE INDEX api_keys_graces ON api_keys (revoke_time) WHERE NOT revoked AND revoke_time IS NOT NULL;
CREATE INDEX api_keys_successor ON api_keys (replaced_by) WHERE replaced_by IS NOT NULL;
-- Lists of the keys in one state, or with a prefix of their names.
CREATE INDEX api_keys_revoked ON api_keys (key_id) WHERE revoke_time IS NOT NULL;
CREATE INDEX api_keys_expiring ON api_keys (key_id) WHERE expire_time IS NOT NULL AND NOT revoked;
CREATE INDEX api_keys_disabled ON api_keys (key_id) WHERE disabled AND NOT revoked;
-- The next keys to expire.
CREATE INDEX api_keys_expiry ON api_keys (expire_time, key_id)
    WHERE expire_time IS NOT NULL AND revoke_time IS NULL;
CREATE INDEX api_keys_name ON api_keys (name COLLATE "C", key_id);

-- When each key was accepted last, and how often it was refused because it was dead. A key that was
-- neither has no row. A use is no change of the key: it has no row in the log. There is no foreign key,
-- because its check would lock the row of the key. No index covers a column that changes, so an update is
-- HOT.
CREATE TABLE key_uses (
    key_id         uuid PRIMARY KEY,
    last_use       timestamptz,
    refused_count  bigint NOT NULL CHECK (refused_count >= 0),
    last_refused   timestamptz
) WITH (fillfactor = 70);

CREATE TABLE caller_tokens (
    token_id     uuid PRIMARY KEY,
    digest       bytea NOT NULL CHECK (octet_length(digest) = 32),
    -- The generation of the secret. Without a secret, a client certificate proves the name in san.
    generation   bigint CHECK (generation BETWEEN 1 AND 4294967295),
    san          text CHECK (length(san) BETWEEN 1 AND 512),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    roles        text NOT NULL CHECK (length(roles) > 0),
    create_time  timestamptz NOT NULL,
    expire_time  timestamptz,
    revoke_time  timestamptz,
    -- As in api_keys.
    revoked      boolean NOT NULL DEFAULT false CHECK (NOT revoked OR revoke_time IS NOT NULL),
    changed_by   text,
    revision     bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
    mark         bytea CHECK (octet_length(mark) = 8),
    CONSTRAINT times_are_readable CHECK (
        create_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'
        AND expire_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'
        AND revoke_time BETWEEN '0001-01-01 UTC' AND '9999-01-01 UTC'),
    CHECK ((generation IS NULL) = (san IS NOT NULL))
);
-- A name in certificates can have a row again after its revocation; a secret never returns.
CREATE UNIQUE INDEX caller_tokens_known ON caller_tokens (digest) WHERE san IS NULL OR NOT revoked;
CREATE INDEX caller_tokens_graces ON caller_tokens (revoke_time)
 WHERE NOT revoked AND revoke_time IS NOT NULL;

-- The registered instances. Only the instance that created a row writes it. A row is deleted by its
-- own instance after it has ended its freshness, or by the reaping rule (I9). No index covers a column
-- that changes, so a heartbeat is a HOT update.
CREATE TABLE instances (
    boot_id             uuid PRIMARY KEY,
    -- Host and address, for people.
    name                text NOT NULL,
    -- The acknowledgement. It counts only while its mark stands in the log.
    applied_revision    bigint NOT NULL DEFAULT 0 CHECK (applied_revision >= 0),
    applied_mark        bytea CHECK (octet_length(applied_mark) = 8),
    -- The longest time for which this instance answers without news, in milliseconds.
    max_staleness       bigint NOT NULL CHECK (max_staleness BETWEEN 1 AND 60000),
    beat                bigint NOT NULL DEFAULT 0,
    -- The number of statements that confirmed changes with this row.
    confirms            bigint NOT NULL DEFAULT 0,
    -- The keys of the keyring that this instance has loaded, by the names of their files. The first one of
    -- each kind is the one that it makes new keys or sealed copies with.
    loaded_keys         text[] NOT NULL,
    since               timestamptz NOT NULL DEFAULT store_time()
) WITH (fillfactor = 50);

-- Who did what. A row changes twice at most: when a seal covers it, and when its account is erased. Only
-- trimming deletes rows.
CREATE TABLE audit (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    time        timestamptz NOT NULL DEFAULT store_time(),
    actor_id    uuid,
    actor       text NOT NULL,
    action      text NOT NULL CHECK (action IN
                ('issue', 'reveal', 'replace', 'revoke', 'update', 'token_create', 'token_revoke',
                 'keyring_activate', 'keyring_retire', 'account_erase', 'epoch_advance', 'clock_lower',
                 'import', 'webhook_replay', 'audit_trim', 'deny')),
    subject_id  uuid,
    account_id  text,
    detail      text,
    -- From where: the connection, the client that a trusted proxy forwarded, and the request.
    peer        text,
    client      text,
    request_id  text,
    -- The place in the chain, given by a seal: see `keyward_store::audit_chain`. The salt goes with an erasure.
    position    bigint CHECK (position > 0),
    salt        bytea CHECK (octet_length(salt) = 16),
    personal    bytea CHECK (octet_length(personal) = 16),
    mac         bytea CHECK (octet_length(mac) = 16),
    CHECK (num_nulls(position, personal, mac) IN (0, 3) AND (salt IS NULL OR position IS NOT NULL))
);
CREATE INDEX audit_subject ON audit (subject_id, id);
CREATE INDEX audit_account ON audit (account_id, time, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_time ON audit (time, id);
CREATE INDEX audit_unsealed ON audit (id) WHERE position IS NULL;
CREATE UNIQUE INDEX audit_chain ON audit (position) WHERE position IS NOT NULL;

-- The seals of the audit: each covers the events from the place after its predecessor's last one.
CREATE TABLE audit_seals (
    number         bigint PRIMARY KEY CHECK (number > 0),
    time           timestamptz NOT NULL,
    last_position  bigint NOT NULL UNIQUE,
    last_event     bytea NOT NULL CHECK (octet_length(last_event) = 16),
    complete       boolean NOT NULL,
    key_version    bigint NOT NULL CHECK (key_version BETWEEN 1 AND 4294967295),
    previous       bytea NOT NULL CHECK (octet_length(previous) = 32),
    mac            bytea NOT NULL CHECK (octet_length(mac) = 32)
);

-- What was trimmed: the seals before `first_seal`. 0: nothing.
CREATE TABLE audit_state (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    first_seal  bigint NOT NULL DEFAULT 0,
    proof       bytea NOT NULL DEFAULT ''
);
INSERT INTO audit_state DEFAULT VALUES;

-- The check values of the keyring: what each of its keys computes from a fixed text.
CREATE TABLE keyring_checks (
    kind         text NOT NULL CHECK (kind IN ('generation', 'seal', 'foreign', 'import', 'audit')),
    number       bigint NOT NULL CHECK (number BETWEEN 1 AND 4294967295),
    check_value  bytea NOT NULL CHECK (octet_length(check_value) = 16),
    -- 'loaded': an instance has the key, and nothing needs it. 'required': every instance needs it.
    -- 'retired': nothing is made with it any more, and nothing needs it.
    state        text NOT NULL DEFAULT 'required' CHECK (state IN ('loaded', 'required', 'retired')),
    -- The one generation of new keys, the one sealing key of new copies, the one audit key of new seals.
    active       boolean NOT NULL DEFAULT false
                 CHECK (NOT active OR (kind IN ('generation', 'seal', 'audit') AND state = 'required')),
    PRIMARY KEY (kind, number)
);
CREATE UNIQUE INDEX keyring_active ON keyring_checks (kind) WHERE active;

-- The advisory lock of a key of the keyring. A transaction that stores something made with the key shares
-- it, and its retirement excludes them.
CREATE FUNCTION keyring_lock(kind text, number bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT hashtextextended(kind || number, 7521983311)';

-- Accounts whose erasure has begun. No other change of the account of a key is allowed.
CREATE TABLE erasures (
    account_id  text PRIMARY KEY,
    pseudonym   text NOT NULL UNIQUE
);

-- The advisory lock of the chain of the audit. Who seals, erases or trims holds it alone.
CREATE FUNCTION audit_lock() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 7521983312::bigint';

-- The prefixes that keys were given: a start warns if its `key_prefixes` lacks one that keys have.
CREATE TABLE key_prefixes (
    prefix  text PRIMARY KEY
);

-- The webhooks that the instances name. While there is none, no event is written.
CREATE TABLE webhooks (
    name       text PRIMARY KEY,
    -- The kinds of events that are written for it.
    events     text[] NOT NULL,
    -- When an instance has named it last.
    seen_time  timestamptz NOT NULL,
    -- The receiver has said that it is gone: nothing is sent until an operator replays events.
    gone       boolean NOT NULL DEFAULT false
);

-- The events for webhooks: a row for each webhook that gets one. The triggers of the keys write them. Account
-- and name of the key are not here, so that its erasure need not change a row.
CREATE TABLE webhook_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- What the receiver knows the event by.
    message_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    webhook     text NOT NULL,
    key_id      uuid NOT NULL,
    type        text NOT NULL CHECK (type IN ('key.issued', 'key.revoked', 'key.expiring', 'key.refused')),
    time        timestamptz NOT NULL,
    -- The time that the event tells: of the expiry, of the revocation, or of the refusal.
    at          timestamptz,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    -- When it may be claimed.
    due         timestamptz NOT NULL,
    -- Whether it is due when the event before it is, about the same key, for which it waits.
    queued      boolean NOT NULL DEFAULT false CHECK (NOT queued OR state = 'waiting'),
    claims      bigint NOT NULL DEFAULT 0,
    failures    bigint NOT NULL DEFAULT 0,
    done_time   timestamptz CHECK ((done_time IS NULL) = (state = 'waiting'))
);
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
    key_id       uuid PRIMARY KEY,
    expire_time  timestamptz NOT NULL
);
CREATE INDEX expiry_notices_time ON expiry_notices (expire_time);

INSERT INTO log_head (revision) VALUES (0);
INSERT INTO log_state (pruned_to, incarnation) VALUES (0, 1);

-- Eight random bytes without an extension: the half of a version 4 UUID with 62 random bits.
CREATE FUNCTION log_mark() RETURNS bytea
LANGUAGE sql VOLATILE AS 'SELECT substring(uuid_send(gen_random_uuid()) FROM 9)';

INSERT INTO key_changes (revision, mark, key_id, kind, time)
VALUES (0, log_mark(), NULL, 'origin', store_time());

-- Refuses a statement with the message in the trigger's argument.
CREATE FUNCTION refuse() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END
$$;

-- I3: rows are only appended to the log, with consecutive revisions. This check runs at the end of the
-- statement that appends; log_head_follows repeats it at the commit.
CREATE FUNCTION log_in_order() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    added bigint; first bigint; last bigint;
BEGIN
    SELECT count(*), min(revision), max(revision) INTO added, first, last FROM appended;
    IF added > 0 AND (last - first + 1 <> added
        OR NOT EXISTS (SELECT FROM key_changes WHERE revision = first - 1)
        OR last <> (SELECT revision FROM log_head)) THEN
        RAISE EXCEPTION 'key_changes is appended to, one revision after the other'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER key_changes_in_order AFTER INSERT ON key_changes
    REFERENCING NEW TABLE AS appended
    FOR EACH STATEMENT EXECUTE FUNCTION log_in_order();
CREATE TRIGGER key_changes_fixed BEFORE UPDATE ON key_changes
    FOR EACH ROW EXECUTE FUNCTION refuse('key_changes cannot be rewritten');

CREATE FUNCTION log_kept() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revision >= (SELECT pruned_to FROM log_state) THEN
        RAISE EXCEPTION 'only rows before log_state.pruned_to may be trimmed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER key_changes_kept BEFORE DELETE ON key_changes
    FOR EACH ROW EXECUTE FUNCTION log_kept();

-- The counter equals the head at each commit. Within a change, it is ahead for one statement.
CREATE FUNCTION log_head_is_head() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT revision FROM log_head)
        IS DISTINCT FROM (SELECT revision FROM key_changes ORDER BY revision DESC LIMIT 1) THEN
        RAISE EXCEPTION 'log_head is the last revision of key_changes'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER log_head_follows AFTER UPDATE ON log_head
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION log_head_is_head();
CREATE TRIGGER log_head_kept BEFORE DELETE ON log_head
    FOR EACH ROW EXECUTE FUNCTION refuse('log_head has one row, for ever');

CREATE FUNCTION log_state_only_rises() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.pruned_to < OLD.pruned_to
        OR (NEW.pruned_to > OLD.pruned_to
            AND NOT EXISTS (SELECT FROM key_changes WHERE revision = NEW.pruned_to))
        OR NEW.incarnation < OLD.incarnation
        OR (NEW.time_floor < OLD.time_floor AND NEW.time_lowered <= OLD.time_lowered) THEN
        RAISE EXCEPTION 'log_state only rises, and pruned_to names a row of the log'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    -- A revocation must not depend on the time that is taken back.
    IF NEW.time_floor < OLD.time_floor
        AND (EXISTS (SELECT FROM api_keys WHERE NOT revoked AND revoke_time IS NOT NULL)
             OR EXISTS (SELECT FROM caller_tokens WHERE NOT revoked AND revoke_time IS NOT NULL)) THEN
        RAISE EXCEPTION 'time_floor falls only when no grace runs: use keyward clock lower'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER log_state_rises BEFORE UPDATE ON log_state
    FOR EACH ROW EXECUTE FUNCTION log_state_only_rises();
CREATE TRIGGER log_state_kept BEFORE DELETE ON log_state
    FOR EACH ROW EXECUTE FUNCTION refuse('log_state has one row, for ever');

-- Raises time_floor to the server's clock, unless another transaction has locked it. Returns by how
-- many microseconds it is ahead of that clock. Such a floor has seen another clock.
CREATE FUNCTION raise_time_floor() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    stored timestamptz;
BEGIN
    -- Many instances call this every second, but one write a second is enough.
    PERFORM FROM log_state WHERE time_floor < server_time() - interval '900 milliseconds'
        FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE log_state SET time_floor = greatest(time_floor, server_time());
    END IF;
    SELECT time_floor INTO stored FROM log_state;
    RETURN greatest(0, extract(epoch FROM stored - server_time()) * 1000000);
END
$$;
REVOKE ALL ON FUNCTION raise_time_floor() FROM PUBLIC;

-- Makes a revocation a fact as soon as its time has come: afterwards no clock can undo it. By its name
-- the trigger fires after those that refuse to unset `revoked`.
CREATE FUNCTION end_revoked() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.revoked := NEW.revoke_time <= store_time();
    RETURN NEW;
END
$$;

CREATE TRIGGER api_keys_timed BEFORE INSERT OR UPDATE ON api_keys FOR EACH ROW
    WHEN (NEW.revoke_time IS NOT NULL AND NOT NEW.revoked) EXECUTE FUNCTION end_revoked();
CREATE TRIGGER caller_tokens_timed BEFORE INSERT OR UPDATE ON caller_tokens FOR EACH ROW
    WHEN (NEW.revoke_time IS NOT NULL AND NOT NEW.revoked) EXECUTE FUNCTION end_revoked();

-- Keys. Rules for one row are in WHEN clauses, which are cheap when the rule holds: an account may have
-- 100,000 keys. Triggers fire in the order of their names.
CREATE FUNCTION wipe_seal() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.sealed := NULL;
    RETURN NEW;
END
$$;

-- The account and the name of a key change only when its account is erased.
CREATE FUNCTION erased_alone() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT OLD.revoked OR NEW.name <> NEW.account_id
        OR NOT EXISTS (SELECT FROM erasures
                        WHERE account_id = OLD.account_id AND pseudonym = NEW.account_id) THEN
        RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER api_keys_erased BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN ((NEW.account_id, NEW.name) IS DISTINCT FROM (OLD.account_id, OLD.name))
    EXECUTE FUNCTION erased_alone('account_id and name of a key never change, unless its account is erased');
CREATE TRIGGER api_keys_fixed BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN ((NEW.key_id, NEW.digest, NEW.generation, NEW.import_batch, NEW.hint, NEW.recoverable,
           NEW.create_time)
          IS DISTINCT FROM (OLD.key_id, OLD.digest, OLD.generation, OLD.import_batch, OLD.hint,
           OLD.recoverable, OLD.create_time))
    EXECUTE FUNCTION refuse('key_id, digest, generation, import_batch, hint, recoverable and create_time of a key never change');
CREATE TRIGGER api_keys_sealed BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.revoke_time IS NOT NULL AND NEW.sealed IS NOT NULL)
    EXECUTE FUNCTION refuse('a revoked key keeps no sealed copy');
-- A revoked key stays revoked, a grace can only become shorter, and a successor never changes.
CREATE TRIGGER api_keys_terminal BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (OLD.revoke_time IS NOT NULL
          AND (NEW.revoke_time IS NULL OR NEW.revoke_time > OLD.revoke_time
               OR NEW.revoked < OLD.revoked
               OR NEW.replaced_by IS DISTINCT FROM OLD.replaced_by))
    EXECUTE FUNCTION refuse('a revoked key stays revoked, its revoke_time can only become earlier, and its successor is fixed');
CREATE TRIGGER api_keys_wiped BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (NEW.revoke_time IS NOT NULL AND NEW.sealed IS NOT NULL)
    EXECUTE FUNCTION wipe_seal();

-- The revision and mark of a row are those of its last change: a repeated Revoke waits for them.
CREATE FUNCTION api_keys_last_change_guard() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <= OLD.revision
        OR NOT EXISTS (SELECT FROM key_changes AS c
                        WHERE c.revision = NEW.revision AND c.mark = NEW.mark
                          AND c.key_id = NEW.key_id) THEN
        RAISE EXCEPTION 'revision and mark are written by the triggers alone'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER api_keys_last_change BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN ((NEW.revision, NEW.mark) IS DISTINCT FROM (OLD.revision, OLD.mark))
    EXECUTE FUNCTION api_keys_last_change_guard();

-- Writes one log row for each key whose record changed. I3: one step takes the revisions of the whole
-- statement, and the counter's row stays locked until the transaction ends, so revision order is commit
-- order. The UPDATE of revision and mark fires this trigger again, which then finds no changed record.
CREATE FUNCTION api_keys_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    ids uuid[]; marks bytea[]; kinds text[]; actors text[]; reasons text[]; ends timestamptz[]; base bigint;
    now timestamptz;
BEGIN
    -- A join of the old and new rows would reuse a plan made for one row, which is far too slow for
    -- 100,000. Sorting and grouping is fast with any plan.
    SELECT array_agg(key_id ORDER BY key_id), array_agg(kind ORDER BY key_id),
           array_agg(actor ORDER BY key_id), array_agg(reason ORDER BY key_id),
           array_agg(nullif(ended, ended_before) ORDER BY key_id), array_agg(log_mark())
      INTO ids, kinds, actors, reasons, ends, marks
      FROM (SELECT key_id,
                   CASE WHEN count(DISTINCT (revoke_time, revoked)) > 1
                        THEN 'revoke' ELSE 'update' END AS kind,
                   max(changed_by) FILTER (WHERE after) AS actor,
                   max(revoke_reason) FILTER (WHERE after) AS reason,
                   max(revoke_time) FILTER (WHERE after) AS ended,
                   max(revoke_time) FILTER (WHERE NOT after) AS ended_before
              FROM (SELECT false AS after, * FROM old_rows
                    UNION ALL
                    SELECT true, * FROM new_rows) AS sides
             GROUP BY key_id
            HAVING count(DISTINCT (account_id, name, scopes, metadata, allowed_cidrs, disabled, expire_time,
                                   revoke_time, revoked, revoke_reason, replaced_by)) > 1) AS changed;
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE log_head SET revision = revision + cardinality(ids)
    RETURNING revision - cardinality(ids) INTO base;
    now := store_time();
    INSERT INTO key_changes (revision, mark, key_id, kind, actor, reason, time)
    SELECT base + n, mark, id, kind, actor, reason, now
      FROM unnest(ids, marks, kinds, actors, reasons) WITH ORDINALITY
        AS c(id, mark, kind, actor, reason, n);
    -- A join with key_changes would reuse a plan that reads all keys of the table.
    UPDATE api_keys AS k SET revision = base + c.n, mark = c.mark, changed_by = NULL
      FROM unnest(ids, marks) WITH ORDINALITY AS c(id, mark, n)
     WHERE k.key_id = c.id;
    -- An event for each new end of a key.
    IF EXISTS (SELECT FROM webhooks) THEN
        INSERT INTO webhook_events (webhook, key_id, type, time, at, due)
        SELECT w.name, c.id, 'key.revoked', now, c.ended, now
          FROM webhooks AS w CROSS JOIN unnest(ids, ends) AS c(id, ended)
         WHERE c.ended IS NOT NULL AND 'key.revoked' = ANY (w.events)
         ORDER BY c.id;
    END IF;
    RETURN NULL;
END
$$;

-- An INSERT of a new random key is not logged, because no cache can hold it. An imported key may have
-- been asked for before, so that caches hold that there is no such key: one log row for the statement,
-- about the id of all zeros, outdates that. An INSERT cannot name its caller in `changed_by`, so the
-- service names it in a setting of its transaction. Other keys get an event for webhooks.
CREATE FUNCTION inserts_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    batch text; next bigint;
BEGIN
    IF EXISTS (SELECT FROM webhooks) THEN
        INSERT INTO webhook_events (webhook, key_id, type, time, at, due)
        SELECT w.name, k.key_id, 'key.issued', k.create_time, k.expire_time, now
          FROM webhooks AS w CROSS JOIN new_rows AS k CROSS JOIN store_time() AS now
         WHERE k.import_batch IS NULL AND 'key.issued' = ANY (w.events);
    END IF;
    SELECT min(import_batch::text) INTO batch FROM new_rows;
    IF batch IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE log_head SET revision = revision + 1 RETURNING revision INTO next;
    INSERT INTO key_changes (revision, mark, key_id, kind, actor, reason, time)
    VALUES (next, log_mark(), '00000000-0000-0000-0000-000000000000', 'import',
            nullif(current_setting('keyward.actor', true), ''), batch, store_time());
    RETURN NULL;
END
$$;

CREATE TRIGGER api_keys_new BEFORE INSERT ON api_keys FOR EACH ROW
    WHEN (NEW.revision <> 0 OR NEW.mark IS NOT NULL OR NEW.changed_by IS NOT NULL
          OR (NEW.sealed IS NOT NULL AND NEW.revoke_time IS NOT NULL))
    EXECUTE FUNCTION refuse('revision, mark and changed_by are not for an INSERT, nor a seal for a revoked key');
CREATE TRIGGER api_keys_imported AFTER INSERT ON api_keys
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION inserts_log();
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION api_keys_log();

-- An event for webhooks when a key is refused for the first time on a day.
CREATE FUNCTION refusals_tell() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO webhook_events (webhook, key_id, type, time, at, due)
    SELECT w.name, NEW.key_id, 'key.refused', now, NEW.last_refused, now
      FROM webhooks AS w CROSS JOIN store_time() AS now
     WHERE 'key.refused' = ANY (w.events);
    RETURN NULL;
END
$$;

CREATE TRIGGER key_uses_refused AFTER INSERT ON key_uses FOR EACH ROW
    WHEN (NEW.last_refused IS NOT NULL) EXECUTE FUNCTION refusals_tell();
CREATE TRIGGER key_uses_refused_again AFTER UPDATE ON key_uses FOR EACH ROW
    WHEN (date_trunc('day', NEW.last_refused, 'UTC') > coalesce(date_trunc('day', OLD.last_refused, 'UTC'), '-infinity'))
    EXECUTE FUNCTION refusals_tell();

-- Callers' tokens share the log with keys.
CREATE FUNCTION caller_tokens_born_clean() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <> 0 OR NEW.mark IS NOT NULL OR NEW.changed_by IS NOT NULL THEN
        RAISE EXCEPTION 'revision, mark or changed_by were given, which are not for an INSERT'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER caller_tokens_fixed BEFORE UPDATE ON caller_tokens FOR EACH ROW
    WHEN ((NEW.token_id, NEW.digest, NEW.generation, NEW.san, NEW.create_time)
          IS DISTINCT FROM (OLD.token_id, OLD.digest, OLD.generation, OLD.san, OLD.create_time)
          OR (OLD.revoke_time IS NOT NULL
              AND (NEW.revoke_time IS NULL OR NEW.revoke_time > OLD.revoke_time
                   OR NEW.revoked < OLD.revoked)))
    EXECUTE FUNCTION refuse('token_id, digest, generation, san and create_time of a token never change, and a revoked token stays revoked');
CREATE FUNCTION caller_tokens_last_change_guard() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <= OLD.revision
        OR NOT EXISTS (SELECT FROM key_changes AS c
                        WHERE c.revision = NEW.revision AND c.mark = NEW.mark
                          AND c.key_id = NEW.token_id) THEN
        RAISE EXCEPTION 'revision and mark are written by the triggers alone'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER caller_tokens_last_change BEFORE UPDATE ON caller_tokens FOR EACH ROW
    WHEN ((NEW.revision, NEW.mark) IS DISTINCT FROM (OLD.revision, OLD.mark))
    EXECUTE FUNCTION caller_tokens_last_change_guard();

CREATE FUNCTION caller_tokens_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changes bigint; base bigint;
BEGIN
    SELECT count(*) INTO changes FROM old_rows AS o JOIN new_rows AS n USING (token_id)
     WHERE (o.name, o.roles, o.expire_time, o.revoke_time, o.revoked)
           IS DISTINCT FROM (n.name, n.roles, n.expire_time, n.revoke_time, n.revoked);
    IF changes = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE log_head SET revision = revision + changes RETURNING revision - changes INTO base;
    INSERT INTO key_changes (revision, mark, key_id, kind, actor, time)
    SELECT base + row_number() OVER (ORDER BY n.token_id), log_mark(), n.token_id,
           CASE WHEN (n.revoke_time, n.revoked) IS DISTINCT FROM (o.revoke_time, o.revoked)
                THEN 'revoke' ELSE 'update' END,
           n.changed_by, store_time()
      FROM old_rows AS o JOIN new_rows AS n USING (token_id)
     WHERE (o.name, o.roles, o.expire_time, o.revoke_time, o.revoked)
           IS DISTINCT FROM (n.name, n.roles, n.expire_time, n.revoke_time, n.revoked);
    UPDATE caller_tokens AS t SET revision = c.revision, mark = c.mark, changed_by = NULL
      FROM key_changes AS c
     WHERE c.revision > base AND c.key_id = t.token_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER caller_tokens_new BEFORE INSERT ON caller_tokens
    FOR EACH ROW EXECUTE FUNCTION caller_tokens_born_clean();
CREATE TRIGGER caller_tokens_changed AFTER UPDATE ON caller_tokens
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION caller_tokens_log();

-- Logs a DELETE of keys or tokens. The argument names their id column.
CREATE FUNCTION deletions_log() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    gone uuid[]; base bigint;
BEGIN
    SELECT array_agg((to_jsonb(o) ->> TG_ARGV[0])::uuid ORDER BY to_jsonb(o) ->> TG_ARGV[0])
      INTO gone FROM old_rows AS o;
    IF gone IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE log_head SET revision = revision + cardinality(gone)
    RETURNING revision - cardinality(gone) INTO base;
    INSERT INTO key_changes (revision, mark, key_id, kind, time)
    SELECT base + n, log_mark(), id, 'delete', store_time()
      FROM unnest(gone) WITH ORDINALITY AS g(id, n);
    RETURN NULL;
END
$$;

-- Deletes the use of deleted keys.
CREATE FUNCTION uses_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM key_uses WHERE key_id IN (SELECT o.key_id FROM old_rows AS o);
    RETURN NULL;
END
$$;

CREATE TRIGGER api_keys_uses_deleted AFTER DELETE ON api_keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION uses_deleted();
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION deletions_log('key_id');
CREATE TRIGGER caller_tokens_deleted AFTER DELETE ON caller_tokens
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION deletions_log('token_id');

-- An event changes only when a seal gives it its place, and when the account that it names is erased.
CREATE FUNCTION audit_kept() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.time, NEW.actor_id, NEW.actor, NEW.action, NEW.subject_id, NEW.detail)
        IS DISTINCT FROM
        (OLD.id, OLD.time, OLD.actor_id, OLD.actor, OLD.action, OLD.subject_id, OLD.detail)
        OR NOT (CASE WHEN OLD.position IS NULL AND NEW.position IS NOT NULL
            THEN (NEW.account_id, NEW.peer, NEW.client, NEW.request_id)
                 IS NOT DISTINCT FROM (OLD.account_id, OLD.peer, OLD.client, OLD.request_id)
            ELSE (NEW.position, NEW.personal, NEW.mac)
                 IS NOT DISTINCT FROM (OLD.position, OLD.personal, OLD.mac)
                 AND num_nonnulls(NEW.peer, NEW.client, NEW.request_id, NEW.salt) = 0
                 AND EXISTS (SELECT FROM erasures
                              WHERE account_id = OLD.account_id AND pseudonym = NEW.account_id)
            END) THEN
        RAISE EXCEPTION 'audit cannot be rewritten' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_kept();

-- Events and seals are deleted only by trimming, which first names the seal with which the chain begins.
CREATE FUNCTION audit_trimmed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.position <= (SELECT last_position FROM audit_seals
                          WHERE number = (SELECT first_seal FROM audit_state))) IS NOT TRUE THEN
        RAISE EXCEPTION 'audit cannot be rewritten: only trimming deletes its events'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;

CREATE FUNCTION audit_seals_trimmed() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.number >= (SELECT first_seal FROM audit_state) THEN
        RAISE EXCEPTION 'audit_seals cannot be rewritten: only trimming deletes seals'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END
$$;

CREATE TRIGGER audit_deleted BEFORE DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION audit_trimmed();
CREATE TRIGGER audit_seals_deleted BEFORE DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION audit_seals_trimmed();
CREATE TRIGGER audit_seals_fixed BEFORE UPDATE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION refuse('audit_seals cannot be rewritten');
CREATE TRIGGER audit_state_kept BEFORE DELETE ON audit_state
    FOR EACH ROW EXECUTE FUNCTION refuse('audit_state has one row, for ever');
CREATE TRIGGER audit_state_rises BEFORE UPDATE ON audit_state FOR EACH ROW
    WHEN (NEW.first_seal <= OLD.first_seal) EXECUTE FUNCTION refuse('audit_state only rises');

-- Refuses what is made with a retired key of the keyring. The arguments name the kind and the column.
CREATE FUNCTION keyring_key_usable() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    used bigint;
BEGIN
    IF TG_ARGV[0] = 'seal' THEN
        used := ('x' || encode(substring(NEW.sealed FOR 4), 'hex'))::bit(32)::bigint;
    ELSIF TG_ARGV[0] = 'audit' THEN
        used := NEW.key_version;
    ELSE
        used := NEW.generation;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(keyring_lock(TG_ARGV[0], used));
    -- A new snapshot: it shows the retirement that this lock has waited for.
    IF EXISTS (SELECT FROM keyring_checks AS c
                WHERE c.kind = TG_ARGV[0] AND c.number = used AND c.state = 'retired') THEN
        RAISE EXCEPTION '% % is retired, and this instance still uses it', TG_ARGV[0], used
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER api_keys_minted BEFORE INSERT ON api_keys FOR EACH ROW
    WHEN (NEW.generation IS NOT NULL) EXECUTE FUNCTION keyring_key_usable('generation');
CREATE TRIGGER caller_tokens_minted BEFORE INSERT ON caller_tokens FOR EACH ROW
    WHEN (NEW.generation IS NOT NULL) EXECUTE FUNCTION keyring_key_usable('generation');
CREATE TRIGGER api_keys_sealed_new BEFORE INSERT ON api_keys FOR EACH ROW
    WHEN (NEW.sealed IS NOT NULL) EXECUTE FUNCTION keyring_key_usable('seal');
CREATE TRIGGER api_keys_sealed_again BEFORE UPDATE ON api_keys FOR EACH ROW
    WHEN (NEW.sealed IS NOT NULL AND NEW.sealed IS DISTINCT FROM OLD.sealed)
    EXECUTE FUNCTION keyring_key_usable('seal');
CREATE TRIGGER audit_seals_made BEFORE INSERT ON audit_seals FOR EACH ROW
    EXECUTE FUNCTION keyring_key_usable('audit');

-- Refuses the registration of an instance that lacks a key of the keyring. An activation holds the lock
-- while it reads the instances.
CREATE FUNCTION instance_has_keyring() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    missing text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(keyring_lock('instances', 0));
    SELECT kind || '-' || number INTO missing FROM keyring_checks
     WHERE state = 'required' AND kind || '-' || number <> ALL (NEW.loaded_keys)
     ORDER BY kind, number LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'this instance lacks %, which every instance needs: copy the file from another instance',
            missing USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER instances_have_keyring BEFORE INSERT ON instances
    FOR EACH ROW EXECUTE FUNCTION instance_has_keyring();

-- TRUNCATE fires no row triggers, so it is refused on tables whose deletions must be logged.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['api_keys', 'caller_tokens', 'key_changes', 'log_head', 'log_state', 'instances',
                              'audit', 'audit_seals', 'audit_state'] LOOP
        EXECUTE format(
            'CREATE TRIGGER %I BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse(%L)',
            t || '_not_truncated', t, t || ' cannot be truncated: no trigger would see its rows');
    END LOOP;
    -- Independent of session_replication_role.
    FOR t IN SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', tgrelid::regclass, tgname)
               FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
              WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace LOOP
        EXECUTE t;
    END LOOP;
END
$$;

-- Trims the log by one step: deletes at most 10,000 rows, the oldest ones, and returns their number.
-- The same transaction raises pruned_to. The last row and the row at pruned_to stay.
CREATE FUNCTION trim_log(kept interval) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    now timestamptz := store_time(); trimmed bigint;
BEGIN
    -- A shorter time could force every instance to start cold.
    IF (kept >= interval '1 hour') IS NOT TRUE THEN
        RAISE EXCEPTION 'the log is kept for an hour at least';
    END IF;
    -- pruned_to becomes the first row that is young enough, or else the last row of the step. A row
    -- from the future was written before an operator lowered the time: its age is unknown.
    UPDATE log_state SET pruned_to = (
        SELECT coalesce(min(revision) FILTER (WHERE time BETWEEN now - kept AND now), max(revision))
          FROM (SELECT revision, time FROM key_changes
                 WHERE revision >= pruned_to ORDER BY revision LIMIT 10001) AS step);
    DELETE FROM key_changes WHERE revision < (SELECT pruned_to FROM log_state);
    GET DIAGNOSTICS trimmed = ROW_COUNT;
    RETURN trimmed;
END
$$;
REVOKE ALL ON FUNCTION trim_log(interval) FROM PUBLIC;

-- One step of the erasure of an account: replaces account and name of at most 500 revoked keys by a
-- pseudonym, drops their other personal data, and does the same for their events of the audit. The first
-- step records the erasure. The pseudonym of
-- the first step stays, so that a later call completes an erasure. Returns the pseudonym, the number of
-- keys, and how many keys of the account are left, of at most 501. `pseudonym` is NULL if the account has
-- no keys.
CREATE FUNCTION erase_account(account text, proposed text, by_id uuid, by_name text, from_peer text,
                              from_client text, request text,
                              OUT pseudonym text, OUT erased bigint, OUT remaining bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    ids uuid[]; begun bigint;
BEGIN
    -- A seal reads the events before it writes their places.
    PERFORM pg_advisory_xact_lock(audit_lock());
    INSERT INTO erasures AS e (account_id, pseudonym)
    SELECT account, proposed WHERE EXISTS (SELECT FROM api_keys AS k WHERE k.account_id = account)
        ON CONFLICT (account_id) DO NOTHING;
    GET DIAGNOSTICS begun = ROW_COUNT;
    SELECT e.pseudonym INTO erase_account.pseudonym FROM erasures AS e WHERE e.account_id = account;
    SELECT array_agg(key_id) INTO ids
      FROM (SELECT k.key_id FROM api_keys AS k
             WHERE (k.account_id, k.key_id) > (account, '00000000-0000-0000-0000-000000000000')
               AND k.account_id <= account AND k.revoked
             ORDER BY k.account_id, k.key_id LIMIT 500 FOR UPDATE) AS step;
    -- In the order in which instances write them.
    PERFORM FROM key_uses AS u WHERE u.key_id = ANY (ids) ORDER BY u.key_id FOR UPDATE;
    DELETE FROM key_uses AS u WHERE u.key_id = ANY (ids);
    UPDATE audit AS a
       SET account_id = erase_account.pseudonym, peer = NULL, client = NULL, request_id = NULL, salt = NULL
     WHERE a.subject_id = ANY (ids) AND a.account_id = account;
    UPDATE api_keys AS k
       SET account_id = erase_account.pseudonym, name = erase_account.pseudonym, metadata = '{}',
           allowed_cidrs = '[]', revoke_reason = NULL, changed_by = by_name
     WHERE k.key_id = ANY (ids);
    erased := coalesce(cardinality(ids), 0);
    SELECT count(*) INTO remaining
      FROM (SELECT FROM api_keys AS k WHERE k.account_id = account LIMIT 501) AS rest;
    IF remaining = 0 AND erase_account.pseudonym IS NOT NULL THEN
        DELETE FROM erasures AS e WHERE e.account_id = account;
    END IF;
    IF begun > 0 THEN
        INSERT INTO audit (actor_id, actor, action, account_id, peer, client, request_id)
        VALUES (by_id, by_name, 'account_erase', erase_account.pseudonym, from_peer, from_client, request);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION erase_account(text, text, uuid, text, text, text, text) FROM PUBLIC;

-- Writes a seal, and gives its events their places. The service computes both from its audit key. The
-- caller holds the lock of the audit.
CREATE FUNCTION seal_audit(ids bigint[], positions bigint[], salts bytea[], personals bytea[], macs bytea[],
                           seal audit_seals) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    sealed bigint;
BEGIN
    IF EXISTS (SELECT FROM audit_seals AS s WHERE s.number >= seal.number) THEN
        RAISE EXCEPTION 'the seal % exists', seal.number USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    INSERT INTO audit_seals SELECT seal.*;
    UPDATE audit AS a SET position = e.position, salt = e.salt, personal = e.personal, mac = e.mac
      FROM unnest(ids, positions, salts, personals, macs) AS e(id, position, salt, personal, mac)
     WHERE a.id = e.id AND a.position IS NULL;
    GET DIAGNOSTICS sealed = ROW_COUNT;
    IF sealed <> cardinality(ids) THEN
        RAISE EXCEPTION 'only events without a place can be sealed'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION seal_audit(bigint[], bigint[], bytea[], bytea[], bytea[], audit_seals) FROM PUBLIC;

-- Deletes the seals before `first`, and the events that they and `first` cover. Returns the number of events.
-- An event records it.
CREATE FUNCTION trim_audit(first bigint, given_proof bytea, by_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    seal audit_seals; trimmed bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(audit_lock());
    SELECT * INTO seal FROM audit_seals AS s WHERE s.number = first;
    -- A shorter time would hide from the next look what somebody has done.
    IF (seal.time <= store_time() - interval '30 days') IS NOT TRUE THEN
        RAISE EXCEPTION 'the audit is kept for 30 days at least';
    END IF;
    UPDATE audit_state SET first_seal = first, proof = given_proof;
    DELETE FROM audit WHERE position <= seal.last_position;
    GET DIAGNOSTICS trimmed = ROW_COUNT;
    DELETE FROM audit_seals AS s WHERE s.number < first;
    INSERT INTO audit (actor, action, detail)
    VALUES (by_name, 'audit_trim', format('events=%s first_seal=%s', trimmed, first));
    RETURN trimmed;
END
$$;
REVOKE ALL ON FUNCTION trim_audit(bigint, bytea, text) FROM PUBLIC;
