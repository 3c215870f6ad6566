//! Redis under an attacker who wants a revoked key to stay valid. The attacker reads and writes
//! every entry, and publishes on every channel.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1;
use keyward_testkit::{
    Cluster, Load, Options, PATIENCE, Redis, Reply, eventually, http_get, now, patiently, requests,
};

use super::redis::{HIT, counted, sharing};
use super::{Plan, issued, pass, tell};

/// So many false hints an instance listens to for sure.
const BORNE: usize = 800;

/// Goes on until it is dropped.
struct Attack {
    stop: Arc<AtomicBool>,
    replayed: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Attack {
    /// `donor` is the entry of a key that lives.
    fn start(redis: &Arc<Redis>, donor: Vec<u8>) -> Self {
        let (stop, replayed) = (Arc::default(), Arc::default());
        let threads = vec![
            spawn(redis, &stop, {
                let replayed = Arc::clone(&replayed);
                let mut seen = HashMap::new();
                move |redis: &Redis| replay(redis, &mut seen, &donor, &replayed)
            }),
            spawn(redis, &stop, shout),
        ];
        Self {
            stop,
            replayed,
            threads,
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(
    redis: &Arc<Redis>,
    stop: &Arc<AtomicBool>,
    mut round: impl FnMut(&Redis) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let (redis, stop) = (Arc::clone(redis), Arc::clone(stop));
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            round(&redis);
        }
    })
}

fn names(redis: &Redis) -> Vec<Vec<u8>> {
    let Reply::Array(found) = redis.query(&[b"KEYS", b"keyward:*"]) else {
        panic!("KEYS gives an array");
    };
    let bulk = |reply| match reply {
        Reply::Bulk(name) => name,
        other => panic!("{other:?}"),
    };
    found.into_iter().map(bulk).collect()
}

/// Puts every entry that ever was back under its name, now and then that of a living key instead, one
/// with a byte changed, or something huge.
fn replay(
    redis: &Redis,
    seen: &mut HashMap<Vec<u8>, Vec<u8>>,
    donor: &[u8],
    replayed: &AtomicUsize,
) {
    let mut hand = redis.connect().unwrap();
    let mut ask = |parts: &[&[u8]]| hand.query(parts).unwrap();
    for name in names(redis) {
        if !seen.contains_key(&name)
            && let Reply::Bulk(value) = ask(&[b"GET", &name])
        {
            seen.insert(name, value);
        }
    }
    let round = replayed.load(Ordering::Relaxed);
    for (n, (name, value)) in seen.iter().enumerate() {
        let turn = n + round;
        let put = match turn % 8 {
            0..3 => donor.to_vec(),
            3 if turn.is_multiple_of(25) => vec![b'x'; 10 << 20],
            4 => {
                let mut altered = value.clone();
                let at = turn % altered.len();
                altered[at] ^= 1;
                altered
            }
            _ => value.clone(),
        };
        ask(&[b"SET", name, &put]);
        replayed.fetch_add(1, Ordering::Relaxed);
    }
    std::thread::sleep(Duration::from_millis(5));
}

/// What an instance says on the channel of hints when a key ends.
async fn true_hint(cluster: &Cluster, redis: &Redis) -> (Vec<u8>, Vec<u8>) {
    let channel = || match redis.query(&[b"PUBSUB", b"CHANNELS"]) {
        Reply::Array(channels) => channels.into_iter().next(),
        other => panic!("PUBSUB gives an array: {other:?}"),
    };
    eventually("a channel is listened to", PATIENCE, async || {
        channel().is_some()
    })
    .await;
    let Some(Reply::Bulk(channel)) = channel() else {
        panic!("nobody listens any more");
    };
    let mut hearing = redis.connect().unwrap();
    hearing.query(&[b"SUBSCRIBE", &channel]).unwrap();
    let client = cluster.client(0).await;
    let (id, _) = issued(&client).await;
    patiently(async || client.revoke(&id).await).await;
    let Reply::Array(message) = hearing.reply().unwrap() else {
        panic!("a message is an array");
    };
    let Some(Reply::Bulk(hint)) = message.last().cloned() else {
        panic!("{message:?}");
    };
    (channel, hint)
}

/// Publishes false and huge hints, more than ten thousand a second, on every channel that has a
/// listener.
fn shout(redis: &Redis) {
    let Reply::Array(channels) = redis.query(&[b"PUBSUB", b"CHANNELS"]) else {
        panic!("PUBSUB gives an array");
    };
    for channel in channels {
        let Reply::Bulk(channel) = channel else {
            continue;
        };
        let (short, huge) = (vec![0xff; 32], vec![b'x'; 1 << 20]);
        let publish: [&[u8]; 3] = [b"PUBLISH", &channel, &short];
        let mut connection = redis.connect().unwrap();
        for _ in 0..BORNE {
            connection.query(&publish).unwrap();
        }
        redis.query(&[b"PUBLISH", &channel, &huge]);
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// The entry of a key that nobody ends. Its metadata makes it the longest.
async fn donor(cluster: &Cluster, redis: &Redis) -> Vec<u8> {
    let client = cluster.client(0).await;
    let note = "x".repeat(500);
    let request = v1::IssueRequest {
        metadata: [("note".to_owned(), note.clone())].into(),
        ..requests::slot("donor")
    };
    let issued = patiently(async || client.send(request.clone()).await).await;
    eventually("the donor is shared", PATIENCE, async || {
        client.verdict(&issued.api_key).await;
        longest(redis).is_some_and(|entry| entry.len() > note.len())
    })
    .await;
    longest(redis).unwrap()
}

fn longest(redis: &Redis) -> Option<Vec<u8>> {
    let values = names(redis)
        .into_iter()
        .filter_map(|name| match redis.query(&[b"GET", &name]) {
            Reply::Bulk(value) => Some(value),
            _ => None,
        });
    values.max_by_key(Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_redis_in_the_hands_of_an_attacker() {
    let redis = Arc::new(Redis::start());
    let options = Options {
        turns: 2,
        ..Options::with_redis(redis.url())
    };
    Plan::with("redis in the hands of an attacker", options)
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            let attack = Attack::start(&redis, donor(cluster, &redis).await);
            // One that joins knows nothing but what it is given: also of the keys that just died.
            for _ in 0..3 {
                load.wait_for_ends(20).await;
                let joined = cluster.add();
                load.join(joined, cluster.client(joined).await);
                pass(Duration::from_secs(1)).await;
            }
            tell("replayed", attack.replayed.load(Ordering::Relaxed));
            for kind in ["bad_mac", "refused"] {
                let line = format!("keyward_l2_total{{outcome=\"{kind}\"}}");
                assert!(counted(cluster, &line).await > 0, "no {kind}");
            }
            let forged = counted(cluster, "keyward_l2_hints_total{kind=\"forged\"}").await;
            tell("forged hints", forged);
            assert!(forged > 0);
            assert!(counted(cluster, HIT).await > 0);
            for number in cluster.running() {
                let ready = http_get(cluster.instance(number).http, "/readyz").await;
                assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
                let said = cluster.instance(number).output();
                assert!(said.matches("was not made with this cache key").count() <= 1);
                assert!(!said.contains("not fresh"), "{said}");
            }
            drop(attack);
        })
        .await;
}

/// What is said by somebody who may not makes nobody read the log, and is not listened to for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_false_hints_does_not_reach_postgres() {
    let redis = Arc::new(Redis::start());
    let cluster = Cluster::start(super::BINARY, 1, Options::with_redis(redis.url()));
    let reads = "keyward_store_call_duration_seconds_count{call=\"tail\",outcome=\"ok\"}";
    let forged = "keyward_l2_hints_total{kind=\"forged\"}";
    let (channel, hint) = true_hint(&cluster, &redis).await;
    let before = counted(&cluster, reads).await;
    for _ in 0..100 {
        redis.query(&[b"PUBLISH", &channel, &hint]);
    }
    let repeated = "keyward_l2_hints_total{kind=\"repeated\"}";
    eventually("repeated hints are heard", PATIENCE, async || {
        counted(&cluster, repeated).await >= 100
    })
    .await;
    let begun = now();
    eventually("it is flooded", PATIENCE, async || {
        shout(&redis);
        counted(&cluster, forged).await >= BORNE as u64
    })
    .await;
    let said = counted(&cluster, forged).await;
    // Then it does not listen any more.
    while begun.elapsed() < Duration::from_secs(4) {
        shout(&redis);
    }
    let read = counted(&cluster, reads).await - before;
    tell("reads of the log for so many false hints", (read, said));
    assert!(read < 20, "{read} reads of the log");
    let told = cluster.instance(0).output();
    assert!(told.contains("false notices flood the channel"), "{told}");
}
