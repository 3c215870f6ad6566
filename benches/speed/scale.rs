//! Verify with many keys: in the memory of an instance, and in Postgres.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward::system::SystemEntropy;
use keyward_core::key::{KeyId, Prefix, Timestamp};
use keyward_crypto::{Active, Keyring, keyring_files};
use keyward_proto::v1::{self, Verdict};
use keyward_testkit::machine::{Times, cpu_time, memory, pin};
use keyward_testkit::{Client, Cluster, Options, Postgres, Random, now};
use tokio::task::JoinSet;

use super::publish;

/// The keys in memory, and the few that they are compared with.
const MANY: usize = 1_000_000;
const FEW: usize = 1_000;
/// The rows of the table that is large, and of the one that is not.
const ROWS: usize = 10_000_000;
const SOME: usize = 10_000;
/// The keys of one statement, and of one call that reads them all.
const STEP: usize = 10_000;
const BATCH: usize = 250;
/// The connections of the callers, and the calls on each at the same time.
const CONNECTIONS: usize = 8;
const IN_FLIGHT: usize = 8;
/// The calls whose cost is measured.
const HITS: usize = 200_000;

/// The texts of keys, which callers verify.
type Texts = Arc<Vec<String>>;

/// Measures both, and writes the tables.
pub(super) async fn measure() {
    let options = Options {
        postgres: vec![("max_wal_size", "1GB"), ("shared_buffers", "1GB")],
        variables: vec![
            ("KEYWARD_WORKERS", "1".to_owned()),
            ("KEYWARD_MAX_CACHED_BYTES", "2GiB".to_owned()),
        ],
        ..Options::default()
    };
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 0, options);
    let mut owner = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let keyring = keyring_files::load(&cluster.keyring()).unwrap();
    let keyring = Keyring::new(&keyring, Active::default()).unwrap();

    let mut texts = insert(&mut owner, &keyring, SOME).await;
    let some = cold(&mut cluster, &texts).await;
    texts.extend(insert(&mut owner, &keyring, MANY - SOME).await);
    fill(&mut owner, ROWS - MANY).await;
    let many = cold(&mut cluster, &draw(&texts, SOME)).await;
    let mut table = String::from(
        "A Verify that reads its key from Postgres for the first time, with a small and with a large table. 8 callers\n\
         each wait for their answer before they call again.\n\n\
         | rows in Postgres | p50 ms | p99 ms |\n|---|---|---|\n",
    );
    for (rows, mut times) in [(SOME, some), (ROWS, many)] {
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        let _ = writeln!(table, "| {rows} | {p50:.2} | {p99:.2} |");
    }
    publish("rows", &table);
    in_memory(&mut cluster, texts).await;
}

async fn in_memory(cluster: &mut Cluster, texts: Vec<String>) {
    let instance = start(cluster);
    let process = cluster.instance(instance).id();
    let client = cluster.client(instance).await;
    let (few, texts) = (Arc::new(texts[..FEW].to_vec()), Arc::new(texts));
    read_all(&client, &few).await;
    let before = memory(process);
    let mut costs = [
        (FEW, 0, hits(cluster, instance, &few).await),
        (MANY, 0, 0.0),
    ];
    read_all(&client, &texts).await;
    costs[1].1 = (memory(process) - before) >> 20;
    costs[1].2 = hits(cluster, instance, &texts).await;
    let mut table = String::from(
        "| keys in memory | MiB of memory | us of CPU for a Verify |\n|---|---|---|\n",
    );
    for (keys, megabytes, cost) in costs {
        let _ = writeln!(table, "| {keys} | {megabytes} | {cost:.2} |");
    }
    publish("keys", &table);
    cluster.stop(instance);
}

/// Starts an instance on core 0, with an empty cache.
fn start(cluster: &mut Cluster) -> usize {
    let instance = cluster.add();
    pin(cluster.instance(instance).id(), 0);
    instance
}

/// How long it takes an instance to verify each key for the first time.
async fn cold(cluster: &mut Cluster, texts: &[String]) -> Times {
    let instance = start(cluster);
    let times = verify(cluster, instance, &Arc::new(texts.to_vec()), texts.len(), 1).await;
    cluster.stop(instance);
    times
}

/// The microseconds of CPU for a Verify of one of these keys, which are in memory.
async fn hits(cluster: &Cluster, instance: usize, texts: &Texts) -> f64 {
    let process = cluster.instance(instance).id();
    verify(cluster, instance, texts, HITS / 10, IN_FLIGHT).await;
    let before = cpu_time(process);
    let times = verify(cluster, instance, texts, HITS, IN_FLIGHT).await;
    let calls = f64::from(u32::try_from(times.0.len()).unwrap());
    (cpu_time(process) - before).as_secs_f64() * 1e6 / calls
}

/// Verifies drawn keys. If all are asked for, each once.
async fn verify(
    cluster: &Cluster,
    instance: usize,
    texts: &Texts,
    calls: usize,
    in_flight: usize,
) -> Times {
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let client = cluster.client(instance).await;
        for caller in 0..in_flight {
            let (client, texts, next) = (client.clone(), Arc::clone(texts), Arc::clone(&next));
            let random = Random::new((connection * in_flight + caller) as u64);
            callers.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= calls {
                        return times;
                    }
                    let n = if calls == texts.len() {
                        n
                    } else {
                        random.index(texts.len())
                    };
                    let begun = now();
                    let verdict = client.verify(&texts[n]).await.unwrap();
                    times.push(begun.elapsed());
                    assert_eq!(verdict, Verdict::Valid);
                }
            });
        }
    }
    Times(callers.join_all().await.into_iter().flatten().collect())
}

/// Reads all keys into the memory of an instance.
async fn read_all(client: &Client, texts: &[String]) {
    for texts in texts.chunks(BATCH) {
        let requests = texts.iter().map(|text| v1::VerifyRequest {
            api_key: text.clone(),
            ..Default::default()
        });
        let requests = requests.collect();
        let batch = v1::VerifyBatchRequest { requests };
        let answer = client.keys.clone().verify_batch(batch).await.unwrap();
        let verdicts = answer.into_inner().responses;
        assert!(verdicts.iter().all(|one| one.verdict() == Verdict::Valid));
    }
}

fn draw(texts: &[String], count: usize) -> Vec<String> {
    let step = texts.len() / count;
    texts.iter().step_by(step).take(count).cloned().collect()
}

/// Inserts live keys of accounts with ids of 20 bytes and two scopes. Returns their texts.
pub(super) async fn insert(
    owner: &mut sqlx::PgConnection,
    keyring: &Keyring,
    count: usize,
) -> Vec<String> {
    let prefix = Prefix::new("kw").unwrap();
    let mut texts = Vec::new();
    while texts.len() < count {
        let (mut ids, mut digests, mut accounts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..STEP.min(count - texts.len()) {
            let minted = keyring.mint(&prefix, &SystemEntropy);
            let id = KeyId::draw(Timestamp::from_micros(0), &SystemEntropy);
            ids.push(uuid::Uuid::from_bytes(*id.as_bytes()));
            digests.push(minted.digest.as_bytes().to_vec());
            accounts.push(id.to_string().replace('-', "")[12..].to_owned());
            texts.push(minted.text.expose().to_owned());
        }
        sqlx::query(
            "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, create_time)
             SELECT key_id, digest, 1, account_id, 'default', 'kw_abcd', '[\"read\", \"trade\"]',
                    '{}', '[]', false, now()
               FROM unnest($1::uuid[], $2::bytea[], $3::text[]) AS new(key_id, digest, account_id)",
        )
        .bind(ids)
        .bind(digests)
        .bind(accounts)
        .execute(&mut *owner)
        .await
        .unwrap();
    }
    texts
}

/// Inserts rows of keys that nobody has.
async fn fill(owner: &mut sqlx::PgConnection, count: usize) {
    let count = i64::try_from(count).unwrap();
    sqlx::query(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time)
         SELECT gen_random_uuid(), sha256(int8send(n)), 1, 'account-' || n, 'default', 'kw_abcd',
                '[]', '{}', '[]', false, now()
           FROM generate_series(1, $1) AS n",
    )
    .bind(count)
    .execute(&mut *owner)
    .await
    .unwrap();
    for statement in ["VACUUM ANALYZE api_keys", "CHECKPOINT"] {
        sqlx::raw_sql(statement).execute(&mut *owner).await.unwrap();
    }
}
