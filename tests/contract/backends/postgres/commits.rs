//! How durable a commit is: each session decides it, not a setting that an administrator changes
//! under running instances.

use std::time::Duration;

use keyward_core::fence::{Position, RegistrationId};
use keyward_ops::Tasks;
use keyward_store::{NewInstance, Store as _, StoreError};
use keyward_store_postgres::PostgresStore;
use keyward_testkit::{PATIENCE, Postgres as Server, eventually};

use super::{SERVICE, STALENESS, hosts, owner};
use crate::doubles::ManualClock;

/// An acknowledgement of the first row. Its mark is another log's, which a heartbeat does not compare.
const ORIGIN: Position = Position {
    revision: 0,
    mark: [0; 8],
};

/// Changes settings of the server, and waits until new sessions have them. Running sessions get the
/// signal before.
async fn set(server: &Server, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        let sql = format!("ALTER SYSTEM SET {name} = '{value}'");
        server.execute(&sql).await;
    }
    server.execute("SELECT pg_reload_conf()").await;
    eventually("the settings are in force", PATIENCE, async || {
        let mut hand = Server::connect(&server.superuser_url()).await;
        for (name, value) in settings {
            let query = sqlx::query_scalar("SELECT current_setting($1)").bind(*name);
            let now: String = query.fetch_one(&mut hand).await.unwrap();
            if now != *value {
                return false;
            }
        }
        true
    })
    .await;
}

/// The durability of a write to `instances`, as a trigger saw it.
async fn recorded(server: &Server) -> Vec<String> {
    let mut hand = Server::connect(&server.superuser_url()).await;
    let query = "DELETE FROM recorded RETURNING setting";
    sqlx::query_scalar(query)
        .fetch_all(&mut hand)
        .await
        .unwrap()
}

const RECORD: &str = "
CREATE TABLE recorded (setting text);
CREATE FUNCTION record() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO public.recorded VALUES (current_setting('synchronous_commit'));
    RETURN NEW;
END
$$;
CREATE TRIGGER record BEFORE UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION record()";

#[tokio::test(flavor = "multi_thread")]
async fn no_reload_weakens_the_commits_of_running_sessions() {
    let server = Server::start();
    owner(server.database())
        .await
        .migrate(Some(SERVICE))
        .await
        .unwrap();
    server.execute(RECORD).await;
    let registration = RegistrationId::from_bytes([7; 16]);
    let instance = NewInstance {
        registration,
        name: "test".to_owned(),
        max_staleness: Duration::from_secs(60),
        loaded: Vec::new(),
    };
    let open = async || {
        let clock = std::sync::Arc::new(ManualClock::new());
        let (hosts, tasks) = (hosts(&[&server.service_url()]), Tasks::default());
        let store = PostgresStore::open(&hosts, STALENESS, clock, &tasks).await;
        store.unwrap()
    };
    let first = open().await;
    first.cluster().unwrap().register(&instance).await.unwrap();
    first.close().await;
    for (at_connect, expected) in [
        ("local", "on"),
        ("remote_write", "on"),
        ("remote_apply", "remote_apply"),
        ("on", "on"),
    ] {
        set(&server, &[("synchronous_commit", at_connect)]).await;
        let store = open().await;
        let cluster = store.cluster().unwrap();
        cluster
            .heartbeat(registration, ORIGIN, 0)
            .await
            .unwrap()
            .unwrap();
        set(&server, &[("synchronous_commit", "local")]).await;
        cluster
            .heartbeat(registration, ORIGIN, 0)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(recorded(&server).await, [expected; 2], "{at_connect}");
        let acked = Position {
            revision: 1,
            ..ORIGIN
        };
        cluster.acknowledge(registration, acked).await.unwrap();
        assert_eq!(recorded(&server).await, ["off"], "an acknowledgement");
        server
            .execute("UPDATE instances SET applied_revision = 0")
            .await;
        recorded(&server).await;
        store.close().await;
    }

    set(&server, &[("synchronous_commit", "on")]).await;
    let store = open().await;
    let cluster = store.cluster().unwrap();
    cluster
        .heartbeat(registration, ORIGIN, 0)
        .await
        .unwrap()
        .unwrap();
    let lost = [
        ("synchronous_standby_names", "missing"),
        ("synchronous_commit", "local"),
    ];
    set(&server, &lost).await;
    // Another process of the server makes commits wait for the standby, some time after the reload.
    eventually(
        "a heartbeat is not answered",
        PATIENCE,
        async || match cluster.heartbeat(registration, ORIGIN, 0).await {
            Ok(page) => {
                assert!(page.is_some());
                false
            }
            Err(error) => {
                assert!(matches!(error, StoreError::OutcomeUnknown(_)), "{error}");
                true
            }
        },
    )
    .await;
}
