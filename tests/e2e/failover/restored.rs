//! A database that is restored from a copy, with and without `keyward epoch advance`: the sentences of
//! "Back up and restore" and of the runbook "The log lost its tail".

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::requests::{creating_token, revoking_token};
use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Postgres, Redis, eventually, http_get, patiently, refused,
};
use tonic::Code;

use super::{BINARY, advance_epoch, issued, revoke_unsettled, settle};

/// Each key: its id and its text.
type Key = (String, String);

/// What was changed after the copy.
struct Lost {
    live: Key,
    revoked_before: Key,
    revoked: Key,
    disabled: Key,
    issued: Key,
    token: String,
}

impl Lost {
    /// Makes changes, a copy, and more changes.
    async fn make(cluster: &Cluster, client: &Client) -> Self {
        let mut keys = issued(client, 4).await.into_iter();
        let mut next = || keys.next().unwrap();
        let (live, revoked_before, revoked, disabled) = (next(), next(), next(), next());
        let created = client.send(creating_token("bot", &[Role::Verifier])).await;
        let created = created.unwrap();
        patiently(async || client.revoke(&revoked_before.0).await).await;
        cluster.postgres.back_up();
        let token_id = created.caller_token.unwrap().token_id;
        patiently(async || client.revoke(&revoked.0).await).await;
        patiently(async || client.disable(&disabled.0, true).await).await;
        patiently(async || client.send(revoking_token(&token_id)).await).await;
        let issued = issued(client, 1).await.remove(0);
        // A shared cache has an entry that is newer than all of the copy.
        let verdict = patiently(async || client.verify(&live.1).await).await;
        assert_eq!(verdict, Verdict::Valid);
        Self {
            live,
            revoked_before,
            revoked,
            disabled,
            issued,
            token: created.token,
        }
    }

    /// What an instance says that knows only the copy.
    async fn is_undone(&self, cluster: &Cluster, number: usize) {
        let client = cluster.client(number).await;
        for (key, expected) in [
            (&self.live, Verdict::Valid),
            (&self.revoked_before, Verdict::Revoked),
            (&self.revoked, Verdict::Valid),
            (&self.disabled, Verdict::Valid),
            (&self.issued, Verdict::NotFound),
        ] {
            let verdict = patiently(async || client.verify(&key.1).await).await;
            assert_eq!(verdict, expected);
        }
        let bot = Client::new(cluster.grpc(number), Some(&self.token)).await;
        assert_eq!(bot.verdict(&self.live.1).await, Verdict::Valid);
    }

    /// Repeats what was lost. Without Redis emptied, its entries of the lost history must not count.
    async fn is_repeated(&self, cluster: &Cluster) {
        let mut clients = Vec::new();
        for number in cluster.running() {
            clients.push(cluster.client(number).await);
        }
        revoke_unsettled(&clients[0], &self.revoked.0).await;
        settle(&cluster.postgres).await;
        for key in [&self.revoked, &self.live] {
            patiently(async || clients[0].revoke(&key.0).await).await;
            for client in &clients {
                assert_eq!(client.verdict(&key.1).await, Verdict::Revoked);
            }
        }
        patiently(async || clients[0].disable(&self.disabled.0, true).await).await;
        for client in &clients {
            assert_eq!(client.verdict(&self.disabled.1).await, Verdict::Disabled);
        }
    }
}

/// The changes that "List the changes" finds in the database before it is replaced.
async fn listed(cluster: &Cluster) -> Vec<String> {
    let page = include_str!("../../../docs/guide/backup.md");
    let sql = page.split("```sql\n").nth(1).unwrap();
    let sql = sql.split("```").next().unwrap();
    let sql = sql.replace("2026-11-29 14:05:00+00", "2000-01-01");
    let actions = format!(
        "SELECT action FROM ({}) AS listed",
        sql.trim_end().trim_end_matches(';')
    );
    let mut owner = Postgres::connect(&cluster.postgres.owner_url()).await;
    let actions = sqlx::query_scalar(sqlx::AssertSqlSafe(actions));
    actions.fetch_all(&mut owner).await.unwrap()
}

/// The steps of "Restore", but Redis keeps its entries: either step alone protects from them.
async fn with_advance(recovered: bool) {
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 2, Options::with_redis(redis.url()));
    let lost = Lost::make(&cluster, &cluster.client(0).await).await;
    cluster.stop_all();
    let changes = listed(&cluster).await;
    assert_eq!(changes, ["revoke", "revoke", "update", "token_revoke"]);
    cluster.postgres.restore(recovered).await;
    advance_epoch(&cluster);
    for number in cluster.add_with(2, &[]) {
        lost.is_undone(&cluster, number).await;
    }
    lost.is_repeated(&cluster).await;
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_put_back_by_the_book_serves_and_confirms() {
    with_advance(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_that_was_recovered_by_the_book_serves_and_confirms() {
    with_advance(true).await;
}

/// The instances that knew more than the copy say so, and give no verdict.
async fn assert_refused(cluster: &Cluster, clients: &[Client], lost: &Lost) {
    for (number, client) in clients.iter().enumerate() {
        let http = cluster.instance(number).http;
        eventually("the reason is told", PATIENCE, async || {
            http_get(http, "/readyz")
                .await
                .contains("the log lost changes")
        })
        .await;
        for key in [&lost.live, &lost.revoked] {
            refused(client.verify(&key.1).await, Code::Unavailable, "NOT_FRESH");
        }
    }
}

/// The copy is put under running instances, and another one starts: nobody has advanced the epoch.
async fn without_advance(recovered: bool) {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let lost = Lost::make(&cluster, &clients[0]).await;
    for client in &clients {
        eventually("the changes are applied", PATIENCE, async || {
            client.verify(&lost.disabled.1).await.ok() == Some(Verdict::Disabled)
        })
        .await;
    }
    cluster.postgres.restore(recovered).await;
    assert_refused(&cluster, &clients, &lost).await;
    let gone = "SELECT NOT EXISTS (SELECT FROM instances)";
    cluster.postgres.wait_for(gone).await;
    // It cannot know that changes are missing.
    let added = cluster.add();
    lost.is_undone(&cluster, added).await;
    let added = cluster.client(added).await;
    let key = issued(&added, 1).await.remove(0);
    if recovered {
        revoke_unsettled(&added, &key.0).await;
    } else {
        let receipt = patiently(async || added.revoke(&key.0).await).await;
        let counts = (receipt.confirmed_instances, receipt.waited_out_instances);
        assert_eq!(counts, (1, 0));
    }
    // Its changes have the numbers of the lost ones.
    for (id, _) in issued(&added, 3).await {
        let _ = added.disable(&id, true).await;
    }
    assert_refused(&cluster, &clients, &lost).await;

    advance_epoch(&cluster);
    for number in cluster.running() {
        lost.is_undone(&cluster, number).await;
    }
    lost.is_repeated(&cluster).await;
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_under_running_instances_is_refused_until_the_epoch_is_advanced() {
    without_advance(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_backup_under_running_instances_is_refused_until_the_epoch_is_advanced() {
    without_advance(true).await;
}
