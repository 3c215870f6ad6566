//! A flood of texts that have the format of a foreign key, each another one: what it takes from honest
//! callers, compared with a flood of calls for one known key. It comes from a process of its own.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use keyward::system::SystemEntropy;
use keyward_core::key::Entropy as _;
use keyward_crypto::{Active, Keyring, keyring_files};
use keyward_testkit::machine::pin;
use keyward_testkit::{Client, Cluster, Options, Process, now};
use sqlx::{Connection as _, PgConnection};

use super::h2load::median;
use super::honest::{freshness, honest};
use super::shared::{clients, issue, verify_each};
use super::{ROUNDS, publish};

/// The argument of the process that floods. Its address, token and text follow; without a text, each call has
/// another UUID.
const ARGUMENT: &str = "--flood";
const CONNECTIONS: usize = 8;
const STREAMS: usize = 32;
/// The length of a measurement, and the pause of an honest caller between two calls.
const LENGTH: Duration = Duration::from_secs(5);
pub(super) const PAUSE: Duration = Duration::from_millis(8);
/// The keys that are in memory, and those that no call has named before.
const HOT: usize = 100;
const COLD: usize = 3 * ROUNDS * 600;

/// The calls of an honest caller.
const CALLS: [&str; 3] = [
    "Verify, key in memory",
    "Verify, foreign key in memory",
    "Verify, key from Postgres",
];

/// What one measurement gives.
#[derive(Default)]
struct Figures {
    flood: f64,
    /// p50 and p99 of each call, in milliseconds.
    times: [[f64; 2]; 3],
    failed: usize,
    freshness: f64,
}

/// The texts of honest callers.
struct Texts {
    own: Arc<Vec<String>>,
    foreign: Arc<Vec<String>>,
    cold: Arc<Vec<String>>,
    next_cold: Arc<AtomicUsize>,
}

pub(super) async fn measure() {
    let variables = [
        ("KEYWARD_WORKERS", "1"),
        ("KEYWARD_FOREIGN_FORMATS", "uuid"),
    ];
    let options = Options {
        variables: variables
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        ..Options::default()
    };
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, options);
    let keyward = cluster.instance(0);
    pin(keyward.id(), 0);
    let texts_of = |keys: Vec<(String, String)>| keys.into_iter().map(|(_, text)| text).collect();
    let clients = clients(&cluster).await;
    let texts = Texts {
        own: Arc::new(texts_of(issue(&clients, "hot", HOT).await.0)),
        foreign: Arc::new(import(&cluster).await),
        cold: Arc::new(texts_of(issue(&clients, "cold", COLD).await.0)),
        next_cold: Arc::default(),
    };
    for hot in [&texts.own, &texts.foreign] {
        verify_each(&clients[0], hot, 4).await;
    }
    let floods = [None, Some(texts.own[0].as_str()), Some("")];
    let mut rounds: [Vec<Figures>; 3] = Default::default();
    for _ in 0..ROUNDS {
        for (figures, flood) in rounds.iter_mut().zip(floods) {
            figures.push(round(keyward, cluster.token(), &texts, flood).await);
        }
    }
    publish("flood", &table(&rounds));
}

fn table(rounds: &[Vec<Figures>; 3]) -> String {
    let mut table =
        String::from("| | quiet | flood of one key | flood of UUIDs |\n|---|---|---|---|\n");
    let mut row = |name: &str, cell: &dyn Fn(&Vec<Figures>) -> String| {
        let cells = rounds.each_ref().map(cell).join(" | ");
        let _ = writeln!(table, "| {name} | {cells} |");
    };
    row("calls/s of the flood", &|rounds| {
        format!("{:.0}", median(rounds.iter().map(|round| round.flood)))
    });
    for (call, name) in CALLS.into_iter().enumerate() {
        row(&format!("{name}: p50, p99 ms"), &|rounds| {
            let [p50, p99] =
                [0, 1].map(|q| median(rounds.iter().map(|round| round.times[call][q])));
            format!("{p50:.2}, {p99:.2}")
        });
    }
    row("failed honest calls", &|rounds| {
        rounds
            .iter()
            .map(|round| round.failed)
            .sum::<usize>()
            .to_string()
    });
    row("oldest freshness, s", &|rounds| {
        let oldest = rounds
            .iter()
            .map(|round| round.freshness)
            .fold(0.0, f64::max);
        format!("{oldest:.2}")
    });
    table
}

/// Imports keys by SQL.
async fn import(cluster: &Cluster) -> Vec<String> {
    let material = keyring_files::load(&cluster.keyring()).unwrap();
    let keyring = Keyring::new(&material, Active::default()).unwrap();
    let texts: Vec<_> = (0..HOT).map(|_| another()).collect();
    let digests = texts
        .iter()
        .map(|text| keyring.foreign_digests(text).next());
    let digests: Vec<_> = digests
        .map(|digest| digest.unwrap().as_bytes().to_vec())
        .collect();
    let url = cluster.postgres.superuser_url();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let insert = sqlx::query(
        "INSERT INTO api_keys (key_id, digest, import_batch, account_id, name, hint, scopes, metadata,
                               allowed_cidrs, recoverable, create_time)
         SELECT gen_random_uuid(), digest, gen_random_uuid(), 'imported-' || n, 'default', 'uuid', '[]', '{}',
                '[]', false, now()
           FROM unnest($1::bytea[]) WITH ORDINALITY AS asked(digest, n)",
    );
    insert.bind(digests).execute(&mut connection).await.unwrap();
    texts
}

/// A UUID that nobody has seen.
pub(super) fn another() -> String {
    let mut random = [0; 16];
    SystemEntropy.fill(&mut random);
    let uuid = uuid::Builder::from_random_bytes(random).into_uuid();
    uuid.to_string()
}

/// Measures honest calls, during a flood of `flood`: one text, or other ones for an empty text.
async fn round(keyward: &Process, token: &str, texts: &Texts, flood: Option<&str>) -> Figures {
    let mut process = flood.map(|text| {
        Command::new("nice")
            .args(["-n", "5", "taskset", "-c", "1"])
            .arg(std::env::current_exe().unwrap())
            .args([ARGUMENT, &keyward.grpc.to_string(), token, text])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut counts = process
        .as_mut()
        .map(|process| BufReader::new(process.stdout.take().unwrap()).lines());
    // The first line comes after the first calls.
    let mut count = || -> f64 {
        let line = counts.as_mut().and_then(Iterator::next);
        line.map_or(0.0, |line| line.unwrap().parse().unwrap())
    };
    count();
    let stop = Arc::new(AtomicBool::new(false));
    let hits = |texts: &Arc<Vec<String>>| (Arc::clone(texts), Arc::<AtomicUsize>::default());
    let cold = (Arc::clone(&texts.cold), Arc::clone(&texts.next_cold));
    let mut callers = Vec::new();
    for texts in [hits(&texts.own), hits(&texts.foreign), cold] {
        let client = Client::new(keyward.grpc, Some(token)).await;
        callers.push(tokio::spawn(honest(
            client,
            texts,
            PAUSE,
            Arc::clone(&stop),
        )));
    }
    let watching = tokio::spawn(freshness(keyward.http, Arc::clone(&stop)));
    let (start, before) = (now(), count());
    tokio::time::sleep(LENGTH).await;
    stop.store(true, Relaxed);
    let mut figures = Figures {
        freshness: watching.await.unwrap(),
        ..Figures::default()
    };
    for (caller, times) in callers.into_iter().zip(&mut figures.times) {
        let (mut measured, failed) = caller.await.unwrap();
        *times = [0.5, 0.99].map(|quantile| measured.quantile(quantile));
        figures.failed += failed;
    }
    if let Some(process) = &mut process {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let last = std::iter::from_fn(|| Some(count()).filter(|count| *count > 0.0)).last();
    figures.flood = (last.unwrap_or(before) - before) / start.elapsed().as_secs_f64();
    figures
}

/// Floods, if this process is to, until it is killed, and prints how many calls were answered.
pub(super) fn is_flood() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == ARGUMENT) else {
        return false;
    };
    let [address, token, text] = &arguments[at + 1..] else {
        panic!("arguments: {arguments:?}");
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let (address, count) = (address.parse().unwrap(), Arc::<AtomicU64>::default());
        for _ in 0..CONNECTIONS {
            let client = Client::new(address, Some(token)).await;
            for _ in 0..STREAMS {
                let (client, text, count) = (client.clone(), text.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    loop {
                        let asked = match text.is_empty() {
                            true => another(),
                            false => text.clone(),
                        };
                        // A refused call counts, too.
                        let _ = client.verify(&asked).await;
                        count.fetch_add(1, Relaxed);
                    }
                });
            }
        }
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            println!("{}", count.load(Relaxed));
        }
    })
}
