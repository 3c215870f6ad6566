//! What the service role must not do, and changes that not even a superuser can hide from the log.

use std::sync::Arc;

use keyward::system::SystemClock;
use keyward_ops::Tasks;
use keyward_store::{Log, Store};
use keyward_store_postgres::{Hosts, PostgresOwner, PostgresStore};
use keyward_testkit::Postgres as Server;

use super::{SERVICE, STALENESS, empty, fresh, hosts};
use crate::world::{ByHand, World, kill};

/// Runs SQL as the service role and returns the error message.
async fn refusal(url: &str, sql: &str) -> String {
    let mut connection = Server::connect(url).await;
    let refused = connection.run(sql).await;
    refused.expect_err(&format!("{sql} is refused"))
}

#[tokio::test]
async fn the_role_that_serves_can_neither_drop_a_trigger_nor_rewrite_the_log() {
    let backend = fresh().await;
    let url = backend.database.service_url();
    for sql in [
        "DROP TRIGGER api_keys_changed ON api_keys",
        "ALTER TABLE api_keys DISABLE TRIGGER api_keys_changed",
        "ALTER TABLE api_keys DISABLE TRIGGER ALL",
        "CREATE OR REPLACE FUNCTION api_keys_log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "DROP TABLE key_changes",
        "TRUNCATE api_keys",
        "TRUNCATE key_changes",
        "TRUNCATE instances",
        "INSERT INTO key_changes (revision, mark, kind, time) VALUES (1, '\\x0000000000000000', 'update', now())",
        "UPDATE key_changes SET mark = mark",
        "DELETE FROM key_changes",
        "UPDATE log_head SET revision = revision + 1",
        "UPDATE log_state SET incarnation = incarnation + 1",
        "UPDATE log_state SET pruned_to = pruned_to + 1",
        "DELETE FROM api_keys",
        "DELETE FROM caller_tokens",
        "UPDATE api_keys SET revision = revision + 1",
        "UPDATE api_keys SET digest = digest",
        "UPDATE audit SET actor = 'nobody'",
        "UPDATE api_keys SET account_id = account_id",
        "INSERT INTO erasures VALUES ('42', 'nobody')",
        "UPDATE audit SET position = 1",
        "UPDATE audit SET account_id = 'x'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "INSERT INTO audit (id, actor, action) VALUES (1, 'nobody', 'issue')",
        "INSERT INTO audit (time, actor, action) VALUES (now(), 'nobody', 'issue')",
        "INSERT INTO audit (actor, action, position) VALUES ('nobody', 'issue', 1)",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "INSERT INTO audit_seals SELECT * FROM audit_seals",
        "UPDATE audit_seals SET number = 1",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
        "UPDATE audit_state SET first_seal = 1",
        "UPDATE keyring_checks SET check_value = check_value",
        "INSERT INTO _sqlx_migrations SELECT 9, '', now(), true, '', 0",
    ] {
        let message = refusal(&url, sql).await;
        let denied = message.contains("permission denied") || message.contains("must be owner");
        assert!(denied, "{sql}: {message}");
    }
    let message = refusal(&url, "SET session_replication_role = 'replica'").await;
    assert!(message.contains("permission denied"), "{message}");
    let message = refusal(&url, "SELECT trim_log('0')").await;
    assert!(message.contains("kept for an hour"), "{message}");
    let message = refusal(&url, "SELECT trim_audit(1, '\\x00', 'x')").await;
    assert!(message.contains("kept for 30 days"), "{message}");
}

#[tokio::test]
async fn a_change_is_logged_whatever_session_replication_role_says() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    let mut hand = world.connect().await;
    hand.run("SET session_replication_role = 'replica'")
        .await
        .unwrap();
    hand.run("UPDATE api_keys SET disabled = true")
        .await
        .unwrap();
    assert_eq!(world.tail(0).await.rows[0].id, key.id);
    hand.run("DELETE FROM api_keys").await.unwrap();
    assert_eq!(world.head().await, 2);
}

#[tokio::test]
async fn a_table_whose_rows_are_logged_cannot_be_truncated() {
    let world = World::new(fresh().await).await;
    world.plain("42").await;
    for table in [
        "api_keys",
        "caller_tokens",
        "key_changes",
        "log_head",
        "log_state",
        "instances",
        "audit",
        "audit_seals",
        "audit_state",
    ] {
        let sql = format!("TRUNCATE {table} CASCADE");
        world.refused(sql, "cannot be truncated").await;
    }
    assert_eq!(world.count("api_keys").await, 1);
}

#[tokio::test]
async fn a_time_outside_the_calendar_is_refused() {
    let world = World::new(fresh().await).await;
    world.plain("42").await;
    for time in ["'infinity'", "'-infinity'", "'10000-01-01'"] {
        for column in ["expire_time", "revoke_time"] {
            let sql = format!("UPDATE api_keys SET {column} = {time}");
            world.refused(sql, "times_are_readable").await;
        }
    }
}

#[tokio::test]
async fn an_upsert_by_hand_is_logged() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world
        .by_hand(
            "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, create_time)
             SELECT key_id, digest, generation, account_id, name, hint, scopes, metadata,
                    allowed_cidrs, recoverable, create_time FROM api_keys
                 ON CONFLICT (key_id) DO UPDATE SET disabled = true",
        )
        .await;
    assert_eq!(world.tail(0).await.rows[0].id, key.id);
    assert_eq!(world.record(key.id).await.revision, 1);
}

#[tokio::test]
async fn a_serializable_change_by_hand_leaves_no_gap() {
    let world = World::new(fresh().await).await;
    let (one, two) = (world.plain("1").await, world.plain("2").await);
    let mut hand = world.connect().await;
    hand.run("BEGIN ISOLATION LEVEL SERIALIZABLE")
        .await
        .unwrap();
    hand.read("SELECT hint FROM api_keys").await;
    world.revoke(kill(one.id)).await;
    let id = world.id(two.id);
    let sql = format!("UPDATE api_keys SET disabled = true WHERE key_id = {id}");
    let refused = hand.run(&sql).await.unwrap_err();
    assert!(refused.contains("could not serialize"), "{refused}");
    hand.run("ROLLBACK").await.unwrap();
    assert_eq!(world.head().await, 1);
    assert!(world.store.cluster().is_some());
}

/// Some platforms hide their timeline. Without it, only a failover that loses nothing is safe.
#[tokio::test]
async fn a_hidden_timeline_is_refused_unless_a_failover_loses_nothing() {
    let forbid = "REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC";
    let lack = "CREATE FUNCTION public.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE plpgsql AS
                $$BEGIN RAISE feature_not_supported USING MESSAGE = 'pg_walfile_name: no'; END$$;
                ALTER DATABASE {} SET search_path = public, pg_catalog";
    for hide in [forbid, lack] {
        let database = empty().await;
        database.execute(&hide.replace("{}", database.name())).await;
        let url = database.service_url();
        let prepare = async |failover_loses_nothing| {
            let declared = |url: &str| Hosts {
                failover_loses_nothing,
                ..hosts(&[url])
            };
            let clock = || Arc::new(SystemClock);
            let owner = declared(&database.owner_url());
            let mut owner = PostgresOwner::connect(&owner, clock()).await?;
            owner.migrate(Some(SERVICE)).await?;
            owner.settle_first().await?;
            PostgresStore::open(&declared(&url), STALENESS, clock(), &Tasks::default()).await
        };
        let refused = prepare(false).await.err().unwrap().to_string();
        for expected in ["pg_walfile_name", "failover_loses_nothing"] {
            assert!(refused.contains(expected), "{hide}: {refused}");
        }
        let store = prepare(true).await.unwrap();
        assert_eq!(store.tail(0).await.unwrap().epoch.timeline, 0);
        store.close().await;
    }
}
