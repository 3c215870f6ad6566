//! Ways to the server: a pooler in session mode with its default settings, and a slow network.

use std::time::Duration;

use keyward_store::{Keys as _, Log as _, Store as _};
use keyward_testkit::{PgBouncer, Proxy, User};

use super::fresh;
use super::schema::open;
use crate::world::{World, actor, kill};

#[tokio::test]
async fn a_pooler_in_session_mode_serves_or_names_its_setting() {
    let database = fresh().await.database;
    let pooler = PgBouncer::start(&database);
    let url = database.url_via(User::Service, pooler.address());
    let store = open(&[&url]).await.unwrap();
    let keys = World::new(fresh().await).await;
    let issued = store.issue(keys.plain_key("42", "default"), &actor()).await;
    let id = issued.unwrap().key.record.id;
    store.revoke(kill(id), &actor()).await.unwrap();
    assert_eq!(store.tail(0).await.unwrap().head, 1);
    let cluster = store.cluster().unwrap();
    assert!(cluster.membership().await.unwrap().members.is_empty());
    cluster.next_change_notice().await;
    store.close().await;
    let with_options = format!("{url}?options=-c%20geqo%3Doff");
    let said = open(&[&with_options]).await.err().unwrap();
    for expected in [
        "unsupported startup parameter",
        "ignore_startup_parameters in pgbouncer.ini",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("reachable"), "{said}");
}

/// A slow server is not an absent one.
#[tokio::test]
async fn a_primary_that_needs_300_ms_for_a_round_trip_is_used() {
    let database = fresh().await.database;
    let proxy = Proxy::to(database.address());
    proxy.delay(Duration::from_millis(300));
    let url = database.url_via(User::Service, proxy.address());
    let store = open(&[&url]).await.unwrap();
    assert_eq!(store.tail(0).await.unwrap().head, 0);
    store.close().await;
}
