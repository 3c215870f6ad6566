//! Rotation of the keyring: under load on three instances, no call fails and no key is refused. Sealed
//! copies move on after a kill, and no instance starts without a key that all need.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keyward_proto::v1::{self, KeyringKeyKind as Kind, Role, Verdict};
use keyward_testkit::requests::*;
use keyward_testkit::{Client, Cluster, Options, PATIENCE, Process, eventually};
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tonic::Status;

use crate::{BINARY, fresh_directory, serve};

/// What the callers of this test need.
const ROLES: [Role; 5] = [
    Role::Issuer,
    Role::Verifier,
    Role::Revealer,
    Role::Reader,
    Role::Admin,
];

/// Runs `keyward keyring add` on `directory`.
fn add(mut command: Command, directory: &Path, kind: &str) {
    command
        .args(["keyring", "add", kind])
        .env("KEYWARD_KEYRING", directory);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn activate(client: &Client, kind: Kind, number: u32) -> Result<(), Status> {
    let kind = kind.into();
    let request = v1::ActivateKeyringKeyRequest { kind, number };
    client.send(request).await.map(drop)
}

/// Activates a key as soon as every instance has loaded it.
async fn activate_soon(client: &Client, kind: Kind, number: u32) {
    eventually("every instance has loaded the key", PATIENCE, || async {
        activate(client, kind, number).await.is_ok()
    })
    .await;
}

async fn retire(client: &Client, kind: Kind, number: u32) -> Result<(), Status> {
    let kind = kind.into();
    let request = v1::RetireKeyringKeyRequest { kind, number };
    client.send(request).await.map(drop)
}

/// How many sealed copies are under a sealing key.
async fn copies(client: &Client, number: u32) -> u64 {
    let status = client.send(v1::GetKeyringStatusRequest {}).await.unwrap();
    let mut keys = status.keys.into_iter();
    let seal = keys.find(|key| key.kind() == Kind::Seal && key.number == number);
    seal.map_or(0, |key| key.sealed_copies)
}

/// Callers of all instances, which issue, verify and reveal keys all the time.
struct Load {
    /// A client of each instance.
    clients: RwLock<Vec<Client>>,
    rounds: AtomicUsize,
    stopping: AtomicBool,
}

impl Load {
    fn start(clients: Vec<Client>) -> (Arc<Self>, JoinSet<()>) {
        let load = Arc::new(Self {
            clients: RwLock::new(clients),
            rounds: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let mut callers = JoinSet::new();
        for caller in 0..6 {
            callers.spawn(Arc::clone(&load).call(caller));
        }
        (load, callers)
    }

    async fn call(self: Arc<Self>, caller: usize) {
        for round in 0.. {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let clients = self.clients.read().clone();
            let account = format!("caller-{caller}");
            let request = v1::IssueRequest {
                name: round.to_string(),
                ..recoverable(&account)
            };
            let one = &clients[(caller + round) % clients.len()];
            let issued = one.send(request.clone()).await.unwrap();
            assert!(issued.created);
            for other in &clients {
                let verdict = other.verify(&issued.api_key).await.unwrap();
                assert_eq!(verdict, Verdict::Valid, "a new key is never refused");
                let shown = other.send(request.clone()).await.unwrap();
                assert_eq!(shown.api_key, issued.api_key, "it can be shown again");
            }
            let id = issued.key.unwrap().key_id;
            if round % 4 > 0 {
                one.revoke(&id).await.unwrap();
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until each caller has called with the present clients.
    async fn goes_on(&self) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually("the load goes on", PATIENCE, || async {
            self.rounds.load(Ordering::Relaxed) >= before + 18
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_refused_while_the_keyring_rotates_under_load() {
    let options = Options {
        // The callers look at each key again and again.
        variables: vec![("KEYWARD_MAX_REVEALS_PER_MINUTE", "none".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::start(BINARY, 4, options);
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(cluster.client(number).await);
    }
    let admin = clients[0].clone();
    let mut old = Vec::new();
    for n in 0..150 {
        let issued = admin.send(recoverable(&format!("old-{n}"))).await.unwrap();
        old.push((issued.key.unwrap().key_id, issued.api_key));
    }
    let (load, mut callers) = Load::start(clients.clone());
    load.goes_on().await;

    let directory = cluster.keyring();
    for kind in ["generation", "seal"] {
        add(cluster.operator(), &directory, kind);
    }
    activate_soon(&admin, Kind::Generation, 2).await;
    activate_soon(&admin, Kind::Seal, 2).await;
    let refused = retire(&admin, Kind::Generation, 1).await.unwrap_err();
    assert!(refused.message().contains("generation-1 is"), "{refused}");
    cluster.kill(3);
    eventually("the sealed copies move", PATIENCE, || async {
        copies(&admin, 1).await == 0 && retire(&admin, Kind::Seal, 1).await.is_ok()
    })
    .await;
    for (_, key) in &old {
        for client in &clients {
            assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
        }
    }
    for (n, (id, key)) in old.iter().enumerate() {
        let client = &clients[n % 3];
        let shown = client.send(recoverable(&format!("old-{n}"))).await.unwrap();
        assert_eq!(&shown.api_key, key);
        client.send(replacing(id)).await.unwrap();
    }
    // The callers change to a token of the new generation, then the first token is revoked.
    let token = admin.token("new", &ROLES).await.unwrap();
    let mut renewed = Vec::new();
    for number in 0..3 {
        renewed.push(Client::new(cluster.grpc(number), Some(&token)).await);
    }
    let admin = renewed[0].clone();
    *load.clients.write() = renewed.clone();
    load.goes_on().await;
    let tokens = admin.send(v1::ListTokensRequest::default()).await.unwrap();
    let first = tokens.caller_tokens[0].token_id.clone();
    admin.send(revoking_token(&first)).await.unwrap();
    // Keys of the load that were issued before the activation.
    for caller in 0..6 {
        let all = listing_all(&format!("caller-{caller}"));
        let listed = admin.send(all).await.unwrap();
        for key in listed.keys {
            if key.revoke_time.is_none() && retire(&admin, Kind::Generation, 1).await.is_err() {
                admin.revoke(&key.key_id).await.unwrap();
            }
        }
    }
    retire(&admin, Kind::Generation, 1).await.unwrap();
    for name in ["generation-1", "seal-1"] {
        fs::remove_file(directory.join(name)).unwrap();
    }
    let joined = cluster.add();
    let late = Client::new(cluster.grpc(joined), Some(&token)).await;
    *load.clients.write() = vec![renewed[1].clone(), renewed[2].clone(), late];
    load.goes_on().await;
    load.stopping.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }

    // An instance that lacks an active key does not start, and does not register.
    let lacking = cluster.directory().join("lacking");
    fs::create_dir(&lacking).unwrap();
    for file in fs::read_dir(&directory).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), lacking.join(file.file_name())).unwrap();
    }
    fs::remove_file(lacking.join("generation-2")).unwrap();
    add_first_generation(&cluster, &lacking);
    let data = cluster.directory().join("late");
    let mut command = cluster.command(&data, &cluster.postgres.service_url());
    command.env("KEYWARD_KEYRING", &lacking);
    let (status, output) = Process::run_to_end(command);
    assert!(!status.success());
    assert!(output.contains("generation 2 is missing"), "{output}");
}

/// A keyring without any generation would be refused for that.
fn add_first_generation(cluster: &Cluster, lacking: &Path) {
    let other = cluster.directory().join("other");
    keyward_crypto::keyring_files::generate(&other, &keyward::system::SystemEntropy).unwrap();
    fs::copy(other.join("generation-1"), lacking.join("generation-1")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_waits_for_every_instance() {
    let mut cluster = Cluster::start(BINARY, 1, Options::default());
    let other = cluster.directory().join("other");
    fs::create_dir(&other).unwrap();
    let copy = |name: &str| fs::copy(cluster.keyring().join(name), other.join(name)).unwrap();
    for name in ["generation-1", "seal-1", "cache-1", "foreign-1", "audit-1"] {
        copy(name);
    }
    let path = other.to_str().unwrap();
    let late = cluster.add_with(1, &[("KEYWARD_KEYRING", path)]).start;
    let (admin, behind) = (cluster.client(0).await, cluster.client(late).await);
    add(cluster.operator(), &cluster.keyring(), "generation");
    eventually("the first instance has loaded it", PATIENCE, || async {
        let refused = activate(&admin, Kind::Generation, 2).await.unwrap_err();
        let names = [0, late].map(|number| cluster.grpc(number).to_string());
        names.map(|name| refused.message().contains(&name)) == [false, true]
    })
    .await;
    // Another key under the same name is not loaded.
    let strange = cluster.directory().join("strange");
    fs::create_dir(&strange).unwrap();
    for name in ["generation-1", "seal-1"] {
        fs::copy(other.join(name), strange.join(name)).unwrap();
    }
    add(cluster.operator(), &strange, "generation");
    fs::copy(strange.join("generation-2"), other.join("generation-2")).unwrap();
    let log = "generation-2 has other secrets than the store's key";
    eventually("the other key is refused", PATIENCE, || async {
        cluster.instance(late).output().contains(log)
    })
    .await;
    assert!(activate(&admin, Kind::Generation, 2).await.is_err());
    fs::remove_file(other.join("generation-2")).unwrap();
    let copy = |name: &str| fs::copy(cluster.keyring().join(name), other.join(name)).unwrap();
    copy("generation-2");
    activate_soon(&behind, Kind::Generation, 2).await;
    let (_, key) = admin.issue("42", "").await.unwrap();
    assert_eq!(behind.verify(&key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_copies_move_on_after_a_kill() {
    const KEYS: u64 = 1_200;
    let (_directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let client = process.client().await;
    let mut issuing = JoinSet::new();
    for worker in 0..20 {
        let client = client.clone();
        issuing.spawn(async move {
            for n in 0..KEYS / 20 {
                let account = format!("{worker}-{n}");
                client.send(recoverable(&account)).await.unwrap();
            }
        });
    }
    issuing.join_all().await;
    let shown = async |client: &Client, account: &str| {
        let issued = client.send(recoverable(account)).await.unwrap();
        (issued.created, issued.api_key)
    };
    let first = shown(&client, "0-0").await;
    let mut command = Command::new(BINARY);
    command.env_clear().current_dir(&data_dir);
    add(command, &data_dir.join("keyring"), "seal");
    activate_soon(&client, Kind::Seal, 2).await;
    eventually("some copies have moved", PATIENCE, || async {
        copies(&client, 2).await > 0
    })
    .await;
    process.kill();
    let process = serve(&data_dir);
    let client = process.client().await;
    eventually("all copies have moved", PATIENCE, || async {
        copies(&client, 2).await == KEYS
    })
    .await;
    retire(&client, Kind::Seal, 1).await.unwrap();
    assert_eq!(shown(&client, "0-0").await, first);
}
