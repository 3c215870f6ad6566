//! Faults of the shared Redis under the load of the promise: killed, paused, emptied, disconnected,
//! sending nonsense, full, failed over. At most, they slow Keyward down.

use std::io::{Read, Write};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Cluster, Load, Options, PATIENCE, Proxy, Redis, RedisCluster, RedisOptions, RedisSentinel,
    Reply, Swallowed, eventually, metric, patiently,
};

use super::{BINARY, Plan, clients, issued, pass};

/// A sentinel that was too early tries again after some seconds.
const FAILOVER: Duration = Duration::from_secs(60);
/// Long enough for the breaker to have opened.
const A_WHILE: Duration = Duration::from_millis(800);

pub(crate) fn with(name: &'static str, url: &str) -> Plan {
    Plan::with(name, Options::with_redis(url.to_owned()))
}

/// A counter of the metrics, summed over all instances.
pub(crate) async fn counted(cluster: &Cluster, line: &str) -> u64 {
    let mut sum = 0;
    for number in cluster.running() {
        let found: Option<u64> = metric(cluster.instance(number).http, line).await;
        sum += found.unwrap_or_else(|| panic!("{line} is not in the metrics"));
    }
    sum
}

pub(crate) const HIT: &str = "keyward_l2_total{outcome=\"hit\"}";
const NEWS: &str = "keyward_l2_hints_total{kind=\"news\"}";
const FAILED: &str = "keyward_l2_total{outcome=\"failed\"}";
const SKIPPED: &str = "keyward_l2_total{outcome=\"skipped\"}";

/// Waits until entries are shared (again).
pub(crate) async fn sharing(cluster: &Cluster, load: &Load) {
    let before = counted(cluster, HIT).await;
    eventually("entries are shared", FAILOVER, async || {
        counted(cluster, HIT).await > before
    })
    .await;
    load.wait_for_ends(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_redis_killed_and_paused() {
    let redis = Redis::start();
    let url = redis.url();
    with("redis killed and paused", &url)
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            redis.kill();
            load.wait_for_ends(10).await;
            pass(A_WHILE).await;
            redis.restart();
            sharing(cluster, load).await;
            redis.pause();
            load.wait_for_ends(10).await;
            pass(A_WHILE).await;
            assert!(counted(cluster, SKIPPED).await > 0, "the breaker opened");
            redis.resume();
            sharing(cluster, load).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_redis_flushed_all_the_time_and_full() {
    let options = RedisOptions {
        lines: vec!["maxmemory-policy noeviction".to_owned()],
        ..RedisOptions::default()
    };
    let redis = Redis::with(options);
    with("redis flushed and full", &redis.url())
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            for _ in 0..100 {
                redis.query(&[b"FLUSHALL"]);
                pass(Duration::from_millis(15)).await;
            }
            sharing(cluster, load).await;
            redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
            eventually("entries are refused", FAILOVER, async || {
                counted(cluster, "keyward_l2_writes_total{outcome=\"dropped\"}").await > 0
            })
            .await;
            load.wait_for_ends(20).await;
            redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
            redis.query(&[b"FLUSHALL"]);
            sharing(cluster, load).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_redis_behind_a_bad_network() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    with("redis cut off", &format!("redis://{}", proxy.address()))
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            type Fault = fn(&Proxy, bool);
            let faults: [(&str, Fault); 4] = [
                ("a black hole", Proxy::black_hole),
                ("half open", |proxy, on| {
                    proxy.half_open(on.then_some(Swallowed::Answers))
                }),
                ("garbage", Proxy::garbage),
                ("refused", |proxy, on| {
                    proxy.refuse(on);
                    proxy.cut();
                }),
            ];
            for (name, fault) in faults {
                let before = counted(cluster, FAILED).await + counted(cluster, SKIPPED).await;
                fault(&proxy, true);
                load.wait_for_ends(10).await;
                pass(A_WHILE).await;
                let after = counted(cluster, FAILED).await + counted(cluster, SKIPPED).await;
                assert!(after > before, "{name}: nobody noticed");
                fault(&proxy, false);
                sharing(cluster, load).await;
            }
        })
        .await;
}

/// The replica that is promoted has not seen what was deleted while it was paused.
#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_a_replica_promoted_that_lost_writes() {
    let redis = RedisSentinel::start();
    let url = redis.url();
    with("redis failed over", &url)
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            let old = redis.current();
            let new = match old.port() == redis.primary.port() {
                true => &redis.replica,
                false => &redis.primary,
            };
            new.pause();
            load.wait_for_ends(20).await;
            old.kill();
            new.resume();
            load.wait_for_ends(5).await;
            sharing(cluster, load).await;
            old.restart();
            old.wait_for_sync();
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_a_redis_cluster_that_loses_a_node() {
    let redis = RedisCluster::start();
    let url = redis.url();
    with("redis cluster", &url)
        .run(async |cluster: &mut Cluster, load: &Load| {
            sharing(cluster, load).await;
            assert!(counted(cluster, NEWS).await > 0, "hints pass");
            redis.nodes[1].kill();
            load.wait_for_ends(15).await;
            pass(A_WHILE).await;
            sharing(cluster, load).await;
            redis.nodes[1].restart();
        })
        .await;
}

/// Each kind of Redis, with a key that is verified on two instances and revoked.
async fn serves(cluster: &mut Cluster, name: &str, url: &str) {
    cluster.add_with(2, &[("KEYWARD_REDIS", url)]);
    let clients = clients(cluster).await;
    let (first, second) = (&clients[0], &clients[1]);
    eventually(name, PATIENCE, async || {
        let (id, text) = issued(first).await;
        for client in [first, second] {
            assert_eq!(client.verdict(&text).await, Verdict::Valid);
            // An entry is written after the answer.
            pass(Duration::from_millis(20)).await;
        }
        patiently(async || first.revoke(&id).await).await;
        for client in [first, second] {
            assert_eq!(client.verdict(&text).await, Verdict::Revoked);
        }
        counted(cluster, HIT).await > 0 && counted(cluster, NEWS).await > 0
    })
    .await;
    cluster.stop_all();
}

const PASSWORD: &str = "a-password-to-hide";

/// The access list that is recommended, with a password.
fn rules() -> String {
    include_str!("../../../deploy/redis.acl").replace("CHANGE-ME", PASSWORD)
}

/// Lets its user in where a server runs already.
fn admit<'r>(servers: impl IntoIterator<Item = &'r Redis>) {
    let rules = rules();
    let user = rules
        .lines()
        .find_map(|line| line.strip_prefix("user keyward "));
    let rights: Vec<_> = user.unwrap().split(' ').collect();
    for server in servers {
        server.command(&[&["ACL", "SETUSER", "keyward"], &rights[..]].concat());
    }
}

fn as_user(url: &str) -> String {
    url.replace("://", &format!("://keyward:{PASSWORD}@"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_redis_serves() {
    let rules = rules();
    let rules: Vec<_> = rules
        .lines()
        .filter(|line| line.starts_with("user"))
        .collect();
    let guarded = Redis::with(RedisOptions {
        acl: Some(rules.join("\n") + "\n"),
        ..RedisOptions::default()
    });
    let instances = &mut Cluster::start(BINARY, 0, Options::default());
    let url = as_user(&guarded.url());
    serves(instances, "a user with few rights", &url).await;
    let tls = Redis::with(RedisOptions {
        tls: true,
        ..RedisOptions::default()
    });
    serves(instances, "TLS with a CA", &tls.url()).await;
    serves(instances, "a socket", &Redis::start().socket_url()).await;
    let sentinel = RedisSentinel::start();
    admit([&sentinel.primary, &sentinel.replica]);
    serves(instances, "a sentinel", &as_user(&sentinel.url())).await;
    let cluster = RedisCluster::start();
    admit(&cluster.nodes);
    serves(instances, "a cluster", &as_user(&cluster.url())).await;

    // The first that is asked says nothing at all: the next ones are asked all the same.
    let silent = Proxy::to(sentinel.primary.address());
    silent.black_hole(true);
    let first = |url: String| url.replace("://", &format!("://{},", silent.address()));
    serves(instances, "a silent sentinel", &first(sentinel.url())).await;
    serves(instances, "a silent node", &first(cluster.url())).await;
}

/// Redis is away at the start, wants another password, or is no Redis: nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_starts_without_redis() {
    let redis = Redis::start();
    let url = redis.url();
    redis.kill();
    let cluster = Cluster::start(BINARY, 1, Options::with_redis(url));
    let client = cluster.client(0).await;
    let (id, text) = issued(&client).await;
    assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
    patiently(async || client.revoke(&id).await).await;
    let said = cluster.instance(0).output();
    assert_eq!(said.matches("redis cannot be used").count(), 1, "{said}");
    redis.restart();
    eventually("it is found", PATIENCE, async || {
        cluster.instance(0).output().contains("redis answers again")
    })
    .await;
}

/// A server that says what it was sent, the password included.
fn parrot() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            let mut heard = [0; 1_024];
            let read = stream.read(&mut heard).unwrap_or(0);
            let words = String::from_utf8_lossy(&heard[..read]).replace("\r\n", " ");
            let _ = write!(stream, "-ERR unknown command, with args: {words}\r\n");
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_redis_that_repeats_the_password_is_not_logged() {
    let url = format!("redis://keyward:{PASSWORD}@{}", parrot());
    let options = Options {
        variables: vec![("KEYWARD_REDIS", url), ("RUST_LOG", "trace".to_owned())],
        ..Options::default()
    };
    let cluster = Cluster::start(BINARY, 1, options);
    eventually(
        "it is told that redis cannot be used",
        PATIENCE,
        async || {
            cluster
                .instance(0)
                .output()
                .contains("redis cannot be used")
        },
    )
    .await;
    let said = cluster.instance(0).output();
    assert!(!said.contains(PASSWORD), "{said}");
}

/// All names and values.
fn everything(redis: &Redis) -> Vec<u8> {
    let Reply::Array(names) = redis.query(&[b"KEYS", b"*"]) else {
        panic!("KEYS answers with an array");
    };
    let mut all = Vec::new();
    for name in names {
        let Reply::Bulk(name) = name else {
            panic!("{name:?}");
        };
        if let Reply::Bulk(value) = redis.query(&[b"GET", &name]) {
            all.extend(value);
        }
        all.extend(name);
    }
    all
}

/// The content of Redis reveals no key, account, scope or digest.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_redis_tells_nothing() {
    let redis = Redis::start();
    let cluster = Cluster::start(BINARY, 1, Options::with_redis(redis.url()));
    let client = cluster.client(0).await;
    eventually("entries are kept", PATIENCE, async || {
        let (_, other) = issued(&client).await;
        client.verify(&other).await.unwrap();
        redis.query(&[b"DBSIZE"]) != Reply::Int(0)
    })
    .await;
    redis.query(&[b"FLUSHALL"]);
    let account = "account-that-nobody-may-see";
    let request = keyward_proto::v1::IssueRequest {
        name: "slot-to-hide".to_owned(),
        scopes: vec!["scope-to-hide".to_owned()],
        ..keyward_testkit::requests::slot(account)
    };
    let issued = client.send(request).await.unwrap();
    let (id, text) = (issued.key.unwrap().key_id, issued.api_key);
    client.verify(&text).await.unwrap();
    eventually("the entry is kept", PATIENCE, async || {
        redis.query(&[b"DBSIZE"]) == Reply::Int(1)
    })
    .await;
    let mut hand = keyward_testkit::Postgres::connect(&cluster.postgres.superuser_url()).await;
    let digest: Vec<u8> = sqlx::query_scalar("SELECT digest FROM api_keys WHERE key_id = $1::uuid")
        .bind(&id)
        .fetch_one(&mut hand)
        .await
        .unwrap();
    let dump = everything(&redis);
    assert!(!dump.is_empty());
    let hex = |bytes: &[u8]| -> Vec<u8> {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>().into_bytes()
    };
    let uuid: Vec<u8> = id.bytes().filter(|byte| *byte != b'-').collect();
    let needles = [
        text.as_bytes().to_vec(),
        text.as_bytes()[3..20].to_vec(),
        account.as_bytes().to_vec(),
        b"slot-to-hide".to_vec(),
        b"scope-to-hide".to_vec(),
        id.as_bytes().to_vec(),
        uuid,
        hex(&digest),
        digest[..16].to_vec(),
    ];
    for needle in needles {
        let found = dump.windows(needle.len()).any(|window| window == needle);
        assert!(!found, "{}", String::from_utf8_lossy(&needle));
    }
}
