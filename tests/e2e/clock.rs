//! A store whose clock was ten years ahead: no dead key lives again, and an operator lowers its time.

use std::path::PathBuf;

use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::requests::{creating_token, living, revoking_token, seconds, with_grace};
use keyward_testkit::{
    Client, Cluster, Options, PATIENCE, Process, eventually, http_get, metric, sqlite_execute,
    without_settings,
};
use tonic::Code;

use crate::{BINARY, fresh_directory, serve};

const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

/// A store, and how its clock is set.
enum Store {
    Sqlite(tempfile::TempDir),
    Postgres(Box<Cluster>),
}

impl Store {
    fn sqlite() -> Self {
        Self::Sqlite(fresh_directory().0)
    }

    fn postgres() -> Self {
        Self::Postgres(Box::new(Cluster::start(BINARY, 0, Options::default())))
    }

    fn serve(&self) -> Process {
        match self {
            Self::Sqlite(directory) => serve(&data_dir(directory)),
            Self::Postgres(cluster) => {
                let data = cluster.directory().join("serve");
                let command = cluster.command(&data, &cluster.postgres.service_url());
                Process::start(command, &data)
            }
        }
    }

    async fn client(&self, process: &Process) -> Client {
        match self {
            Self::Sqlite(..) => process.client().await,
            Self::Postgres(cluster) => Client::new(process.grpc, Some(cluster.token())).await,
        }
    }

    /// Sets the clock of the store ahead by ten years. The embedded store only keeps what it once saw.
    async fn clock_ahead(&self) {
        match self {
            Self::Sqlite(directory) => {
                let ahead = "UPDATE store_clock SET newest = newest + 315360000000000";
                sqlite_execute(&data_dir(directory).join("keyward.db"), ahead).await;
            }
            Self::Postgres(cluster) => cluster.postgres.clock_ahead("10 years").await,
        }
    }

    async fn clock_back(&self) {
        if let Self::Postgres(cluster) = self {
            cluster.postgres.clock_ahead("0").await;
        }
    }

    /// Runs `keyward clock lower`. Returns whether it succeeded, and its output.
    fn lower(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = match self {
            Self::Sqlite(directory) => {
                let mut command = without_settings(BINARY);
                command.env("KEYWARD_DATA_DIR", data_dir(directory));
                command
            }
            Self::Postgres(cluster) => cluster.operator(),
        };
        command.args(["clock", "lower", "--reason", "NTP was wrong"]);
        let output = command.args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }
}

fn data_dir(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("data")
}

async fn assert_verdicts(client: &Client, expected: &[(&String, Verdict)]) {
    for (key, verdict) in expected {
        assert_eq!(client.verify(key).await.unwrap(), *verdict);
        assert_eq!(client.verify_strongly(key).await.unwrap(), *verdict);
    }
}

/// The seconds by which the store's time is ahead.
async fn ahead(process: &Process) -> f64 {
    let seconds = metric(process.http, "keyward_store_time_ahead").await;
    seconds.unwrap()
}

async fn no_dead_key_lives_again(
    store: Store,
    decision: &str,
    expired_later: Verdict,
    warning: &str,
) {
    let mut process = store.serve();
    let client = store.client(&process).await;
    let (_, living_key) = client.issue("1", "").await.unwrap();
    let (id, early) = client.issue("2", "").await.unwrap();
    client.send(with_grace(&id, HOUR)).await.unwrap();
    let expired = client.send(living("3", YEAR)).await.unwrap();
    let temporary = v1::CreateTokenRequest {
        ttl: seconds(YEAR),
        ..creating_token("temporary", &[Role::Reader])
    };
    let temporary = client.send(temporary).await.unwrap();
    assert!(ahead(&process).await < 60.0);
    assert!(process.stop().success());

    store.clock_ahead().await;
    let mut process = store.serve();
    let client = store.client(&process).await;
    let (id, revoked) = client.issue("4", "").await.unwrap();
    client.revoke(&id).await.unwrap();
    let (id, late) = client.issue("5", "").await.unwrap();
    client.send(with_grace(&id, HOUR)).await.unwrap();
    let issued = client.send(living("6", HOUR)).await.unwrap();
    let created = client
        .send(creating_token("reader", &[Role::Reader]))
        .await
        .unwrap();
    let token_id = created.caller_token.unwrap().token_id;
    client.send(revoking_token(&token_id)).await.unwrap();
    let before = [
        (&living_key, Verdict::Valid),
        (&early, Verdict::Revoked),
        (&expired.api_key, Verdict::Expired),
        (&revoked, Verdict::Revoked),
        (&late, Verdict::Valid),
        (&issued.api_key, Verdict::Valid),
    ];
    assert_verdicts(&client, &before).await;
    let caller = Client::new(process.grpc, Some(&temporary.token)).await;
    let refused = caller.list("1").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);

    store.clock_back().await;
    eventually("the alarm", PATIENCE, async || {
        http_get(process.http, "/readyz").await.contains(warning)
    })
    .await;
    eventually("the warning", PATIENCE, async || {
        process.output().contains(warning)
    })
    .await;
    assert!(ahead(&process).await > 300e6);
    assert_verdicts(&client, &before).await;
    let (done, said) = store.lower(&[]);
    assert!(!done, "{said}");
    let running = ["instances are running. Stop", "is held by another keyward"];
    assert!(
        running.iter().any(|running| said.contains(running)),
        "{said}"
    );
    process.kill();

    // Nothing changes until the operator decides what becomes of the expired key.
    let (done, said) = store.lower(&[]);
    let id = &expired.key.unwrap().key_id;
    assert!(
        !done && said.contains("--expired revoke") && said.contains(id),
        "{said}"
    );
    let of_token = format!(
        "{} token of temporary",
        temporary.caller_token.unwrap().token_id
    );
    assert!(said.contains(&of_token), "{said}");
    let (done, said) = store.lower(&["--expired", decision]);
    assert!(
        done && said.contains("ended graces: ") && said.contains(id) && said.contains(&of_token),
        "{said}"
    );
    let issued_id = &issued.key.unwrap().key_id;
    assert!(said.contains(issued_id), "{said}");
    let (done, said) = store.lower(&[]);
    assert!(
        !done && said.contains("is not ahead of the clock"),
        "{said}"
    );

    let process = store.serve();
    let client = store.client(&process).await;
    let after = [
        (&living_key, Verdict::Valid),
        (&early, Verdict::Revoked),
        (&expired.api_key, expired_later),
        (&revoked, Verdict::Revoked),
        (&late, Verdict::Revoked),
        (&issued.api_key, Verdict::Valid),
    ];
    assert_verdicts(&client, &after).await;
    let refused = async |token| {
        let caller = Client::new(process.grpc, Some(token)).await;
        let refusal = caller.list("1").await.err();
        refusal.is_some_and(|status| status.code() == Code::Unauthenticated)
    };
    assert!(refused(&created.token).await);
    assert_eq!(
        refused(&temporary.token).await,
        expired_later == Verdict::Revoked
    );
    let ready = http_get(process.http, "/readyz").await;
    assert!(!ready.contains("ahead"), "{ready}");
    assert!(ahead(&process).await < 60.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dead_key_lives_again_after_the_time_of_an_embedded_store_was_lowered() {
    let warning = "ahead of this machine's";
    no_dead_key_lives_again(Store::sqlite(), "revive", Verdict::Valid, warning).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_dead_key_lives_again_after_the_time_of_a_shared_store_was_lowered() {
    let warning = "ahead of the server's clock";
    no_dead_key_lives_again(Store::postgres(), "revoke", Verdict::Revoked, warning).await;
}
