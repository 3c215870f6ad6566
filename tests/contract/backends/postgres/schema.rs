//! Migrating and checking the schema, and finding a primary.

use std::sync::Arc;

use keyward::system::SystemClock;
use keyward_ops::Tasks;
use keyward_store::{KeyringChecks as _, Log as _, Store as _};
use keyward_store_postgres::PostgresStore;
use keyward_testkit::{Database, Postgres as Server, User};

use super::{SERVICE, STALENESS, connect_owner, empty, fresh, hosts, owner};
use crate::world::ByHand;

pub(super) async fn open(urls: &[&str]) -> Result<PostgresStore, String> {
    let (clock, tasks) = (Arc::new(SystemClock), Tasks::default());
    PostgresStore::open(&hosts(urls), STALENESS, clock, &tasks)
        .await
        .map_err(|error| error.to_string())
}

async fn refusal(database: &Database) -> String {
    open(&[&database.service_url()]).await.err().unwrap()
}

#[tokio::test]
async fn a_migration_may_be_repeated_and_run_concurrently() {
    let database = empty().await;
    let migrate = async || owner(&database).await.migrate(Some(SERVICE)).await;
    let (one, two, three) = tokio::join!(migrate(), migrate(), migrate());
    for done in [one, two, three] {
        done.unwrap();
    }
    owner(&database).await.migrate(None).await.unwrap();
    let store = open(&[&database.service_url()]).await.unwrap();
    assert_eq!(store.tail(0).await.unwrap().head, 0);
    store.close().await;
}

#[tokio::test]
async fn a_database_without_schema_is_refused_with_what_to_do() {
    let database = empty().await;
    let message = refusal(&database).await;
    assert!(
        message.contains("keyward init") && message.contains("keyward migrate"),
        "{message}"
    );
}

#[tokio::test]
async fn a_role_without_rights_is_refused_with_what_to_do() {
    let database = empty().await;
    owner(&database).await.migrate(None).await.unwrap();
    let message = refusal(&database).await;
    assert!(message.contains("--service-role"), "{message}");
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_named() {
    let database = empty().await;
    let refused = owner(&database).await.migrate(Some("no\"body")).await;
    let message = refused.unwrap_err().to_string();
    assert!(
        message.contains("no\"body") && message.contains("CREATE ROLE"),
        "{message}"
    );
}

#[tokio::test]
async fn only_the_owner_can_migrate() {
    let database = empty().await;
    let url = database.service_url();
    let mut other = connect_owner(&url).await.unwrap();
    let message = other.migrate(None).await.unwrap_err().to_string();
    assert!(message.contains("owner"), "{message}");
}

/// Migrations only add, so an older version can serve beside a newer one.
#[tokio::test]
async fn a_newer_schema_is_served_and_another_builds_is_not() {
    let backend = fresh().await;
    let mut hand = Server::connect(&backend.database.superuser_url()).await;
    hand.run(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', TRUE, '\\x00', 0)",
    )
    .await
    .unwrap();
    let url = backend.database.service_url();
    open(&[&url]).await.unwrap().close().await;
    let refused = owner(&backend.database).await.migrate(None).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("schema 9999"), "{message}");
    hand.run("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1")
        .await
        .unwrap();
    let message = refusal(&backend.database).await;
    assert!(message.contains("schema 1"), "{message}");
}

#[tokio::test]
async fn the_first_host_that_is_a_primary_is_used() {
    let backend = fresh().await;
    let url = backend.database.service_url();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = backend
        .database
        .url_via(User::Service, nobody.local_addr().unwrap());
    drop(nobody);
    let store = open(&[&dead, &url]).await.unwrap();
    assert!(store.known_keys().await.unwrap().is_empty());
    store.close().await;
    let message = open(&[&dead]).await.err().unwrap();
    assert!(message.contains("no Postgres primary answers"), "{message}");
    assert!(!message.contains("service-secret"), "{message}");
}

#[tokio::test]
async fn a_server_proves_who_it_is_by_its_certificate() {
    let server = Server::start_tls();
    let mut owner = connect_owner(&server.tls_url(User::Owner)).await.unwrap();
    owner.migrate(Some(SERVICE)).await.unwrap();
    let url = server.tls_url(User::Service);
    let store = open(&[&url]).await.unwrap();
    assert_eq!(store.tail(0).await.unwrap().head, 0);
    store.close().await;
    // A name that the certificate lacks, and an unknown certificate authority.
    let by_address = url.replace("@localhost:", "@127.0.0.1:");
    let (untrusted, _) = url.split_once("&sslrootcert").unwrap();
    for wrong in [by_address.as_str(), untrusted] {
        let message = open(&[wrong]).await.err().unwrap();
        assert!(message.contains("certificate"), "{message}");
        assert!(message.contains("`sslrootcert` in `store`"), "{message}");
        assert!(!message.contains("is running"), "{message}");
    }
}
