//! The private Redis servers have the properties that the tests of faults rely on, and leave
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward_testkit::{
    Proxy, Redis, RedisCluster, RedisConnection, RedisOptions, RedisSentinel, Reply, Swallowed,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
/// The time after which missing data counts as lost.
const SHORT: Duration = Duration::from_millis(300);

fn simple(text: &str) -> Reply {
    Reply::Simple(text.to_owned())
}

/// A connection to the port.
fn open(redis: &Redis) -> RedisConnection {
    RedisConnection::connect(redis.address()).unwrap()
}

fn with(lines: &[&str]) -> RedisOptions {
    RedisOptions {
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        ..RedisOptions::default()
    }
}

fn replica_of(primary: &Redis) -> RedisOptions {
    RedisOptions {
        replica_of: Some(("127.0.0.1".to_owned(), primary.port())),
        ..RedisOptions::default()
    }
}

#[test]
fn a_server_responds_on_its_port_and_its_socket() {
    let redis = Redis::start();
    let mut by_port = open(&redis);
    let mut by_socket = RedisConnection::connect_unix(&redis.socket()).unwrap();
    assert_eq!(by_port.ask(&["PING"]).unwrap(), simple("PONG"));
    assert_eq!(by_socket.ask(&["PING"]).unwrap(), simple("PONG"));
    let port = redis.port();
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{port}"));
    let path = redis.socket_url();
    let path = path.strip_prefix("redis+unix://").unwrap();
    assert_eq!(Path::new(path), redis.socket());
}

#[test]
fn responses_are_parsed() {
    let redis = Redis::start();
    let bytes: Vec<u8> = (0..=255).chain(*b"\r\n").collect();
    let set = redis.query(&[b"SET", b"bytes", &bytes]);
    assert_eq!(set, simple("OK"));
    assert_eq!(redis.query(&[b"GET", b"bytes"]), Reply::Bulk(bytes));
    assert_eq!(redis.query(&[b"GET", b"none"]), Reply::Nil);
    assert_eq!(redis.command(&["GET", "none"]), "");
    assert_eq!(redis.query(&[b"INCR", b"n"]), Reply::Int(1));
    assert_eq!(redis.command(&["INCR", "n"]), "2");
    assert_eq!(redis.command(&["MGET", "n", "none", "n"]), "2\n\n2");
    let refused = redis.query(&[b"INCR", b"bytes"]);
    assert!(
        matches!(&refused, Reply::Error(error) if error.starts_with("ERR ")),
        "{refused:?}"
    );
    let nested = redis.query(&[b"EVAL", b"return {1, {'a'}, {}}", b"0"]);
    let inner = Reply::Array(vec![Reply::Bulk(b"a".to_vec())]);
    let empty = Reply::Array(Vec::new());
    assert_eq!(nested, Reply::Array(vec![Reply::Int(1), inner, empty]));
}

#[test]
#[should_panic(expected = "unknown command")]
fn a_command_that_is_refused_fails_the_test() {
    Redis::start().command(&["FROBNICATE"]);
}

#[test]
fn options_are_in_force() {
    let redis = Redis::with(with(&["maxmemory 2mb", "maxmemory-policy allkeys-lru"]));
    let memory = redis.command(&["CONFIG", "GET", "maxmemory"]);
    assert_eq!(memory, "maxmemory\n2097152");
    assert_eq!(redis.command(&["CONFIG", "GET", "save"]), "save\n");
    let other = Redis::start();
    let memory = other.command(&["CONFIG", "GET", "maxmemory"]);
    assert_eq!(memory, "maxmemory\n0");
}

#[test]
fn killed_and_started_again_it_is_empty_on_the_same_port() {
    let redis = Redis::start();
    let address = redis.address();
    for _ in 0..3 {
        let mut old = open(&redis);
        old.ask(&["SET", "key", "value"]).unwrap();
        redis.kill();
        assert!(!redis.is_running());
        assert!(old.ask(&["PING"]).is_err(), "the connection is gone");
        assert!(TcpStream::connect(address).is_err(), "the server is gone");
        assert!(redis.try_command(&["PING"]).is_err());
        redis.kill();
        redis.restart();
        assert!(redis.is_running());
        assert_eq!(redis.address(), address);
        assert_eq!(open(&redis).ask(&["DBSIZE"]).unwrap(), Reply::Int(0));
    }
    redis.command(&["SET", "key", "value"]);
    redis.restart();
    assert_eq!(redis.command(&["DBSIZE"]), "0", "also without a kill");
}

#[test]
fn a_paused_server_answers_when_it_goes_on() {
    let redis = Redis::start();
    redis.command(&["SET", "key", "value"]);
    for _ in 0..3 {
        redis.pause();
        let mut paused = RedisConnection::connect_for(redis.address(), SHORT).unwrap();
        assert!(paused.ask(&["GET", "key"]).is_err(), "it is not paused");
        redis.resume();
        // The delayed response is still in the connection.
        let reply = Reply::Bulk(b"value".to_vec());
        assert_eq!(paused.reply().unwrap(), reply);
        assert_eq!(redis.command(&["GET", "key"]), "value");
    }
    redis.pause();
    redis.restart();
    assert_eq!(redis.command(&["DBSIZE"]), "0");
}

#[test]
fn the_access_list_lets_each_user_do_its_own_only() {
    let redis = Redis::with(RedisOptions {
        acl: Some("user default off\nuser keyward on >secret ~kw:* &* -@all +get +set".to_owned()),
        ..RedisOptions::default()
    });
    let mut stranger = open(&redis);
    let refused = stranger.ask(&["GET", "kw:1"]).unwrap().text();
    assert!(refused.starts_with("NOAUTH "), "{refused}");
    let ask = |password: &str, parts: &[&str]| redis.try_command_as("keyward", password, parts);
    assert_eq!(ask("secret", &["SET", "kw:1", "one"]), Ok("OK".to_owned()));
    let wrong = ask("guess", &["GET", "kw:1"]).unwrap_err();
    assert!(wrong.starts_with("WRONGPASS "), "{wrong}");
    let denied: [&[&str]; 2] = [&["GET", "other"], &["DEL", "kw:1"]];
    for parts in denied {
        let refused = ask("secret", parts).unwrap_err();
        assert!(refused.starts_with("NOPERM "), "{refused}");
    }
    assert_eq!(redis.command(&["GET", "kw:1"]), "one", "the harness may");
    redis.restart();
    let refused = open(&redis).ask(&["PING"]).unwrap().text();
    assert!(refused.starts_with("NOAUTH "), "also afterwards: {refused}");
}

#[test]
fn with_tls_the_port_takes_nothing_else() {
    let tls = || RedisOptions {
        tls: true,
        ..RedisOptions::default()
    };
    let redis = Redis::with(tls());
    let plain = open(&redis).ask(&["PING"]);
    assert!(plain.is_err(), "{plain:?}");
    assert_eq!(redis.command(&["PING"]), "PONG", "the socket has none");
    let (port, ca) = (redis.port(), redis.ca().display());
    assert_eq!(redis.url(), format!("rediss://127.0.0.1:{port}?ca={ca}"));

    // A replica connects to its primary with TLS.
    let replica = |authority: &Redis| RedisOptions {
        lines: vec![
            "tls-replication yes".to_owned(),
            format!("tls-ca-cert-file \"{}\"", authority.ca().display()),
        ],
        tls: true,
        ..replica_of(&redis)
    };
    redis.command(&["SET", "key", "value"]);
    let trusting = Redis::with(replica(&redis));
    trusting.wait_for_sync();
    assert_eq!(trusting.command(&["GET", "key"]), "value");
    let other = Redis::with(tls());
    let doubting = Redis::with(replica(&other));
    wait_until("the certificate is refused", PATIENCE, || {
        // The common prefix of all TLS errors about the certificate.
        doubting
            .log()
            .contains("Error condition on socket for SYNC: error:")
    });
    assert_eq!(doubting.command(&["DBSIZE"]), "0");
}

#[test]
fn a_replica_follows() {
    let primary = Redis::start();
    primary.command(&["SET", "before", "1"]);
    let replica = Redis::with(replica_of(&primary));
    replica.wait_for_sync();
    assert_eq!(replica.command(&["GET", "before"]), "1");
    primary.command(&["SET", "after", "2"]);
    wait_until("the replica follows", PATIENCE, || {
        replica.command(&["GET", "after"]) == "2"
    });
    let refused = replica.try_command(&["SET", "key", "value"]).unwrap_err();
    assert!(refused.starts_with("READONLY "), "{refused}");
}

#[test]
fn a_sentinel_promotes_the_replica_and_back() {
    let set = RedisSentinel::start();
    let port = set.sentinels[0].port();
    assert_eq!(
        set.url(),
        format!("redis+sentinel://127.0.0.1:{port}/keyward")
    );
    assert_eq!(set.current().port(), set.primary.port());
    set.primary.command(&["SET", "key", "value"]);
    wait_until("the replica follows", PATIENCE, || {
        set.replica.command(&["GET", "key"]) == "value"
    });
    let next = set.failover();
    assert_eq!(next.port(), set.replica.port());
    assert_eq!(next.command(&["GET", "key"]), "value");
    assert_eq!(next.command(&["SET", "key", "other"]), "OK");
    wait_until("the old primary follows", PATIENCE, || {
        // The sentinel closes connections when it changes a role.
        set.primary.try_command(&["GET", "key"]).as_deref() == Ok("other")
    });
    assert_eq!(set.failover().port(), set.primary.port());
}

#[test]
fn three_sentinels_notice_that_the_primary_is_gone() {
    let set = RedisSentinel::with(3);
    assert_eq!(set.url().matches("127.0.0.1:").count(), 3);
    set.sentinels[0].kill();
    set.primary.kill();
    set.wait_for(&set.replica);
    assert_eq!(set.current().port(), set.replica.port());
    // The old primary starts as a primary, until the sentinels notice it.
    set.primary.restart();
    wait_until("the old primary follows", PATIENCE, || {
        let role = set.primary.try_command(&["ROLE"]);
        role.is_ok_and(|role| role.starts_with("slave"))
    });
}

#[test]
fn a_cluster_serves_and_survives_the_loss_of_a_node() {
    let cluster = RedisCluster::start();
    let ports: Vec<_> = cluster.nodes.iter().map(Redis::port).collect();
    let [first, second, third] = ports[..] else {
        panic!("there are three nodes: {ports:?}");
    };
    assert_eq!(
        cluster.url(),
        format!("redis+cluster://127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}/")
    );
    let keys: Vec<_> = (0..30).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        let node = cluster.node_of(key);
        cluster.nodes[node].command(&["SET", key, "value"]);
        let wrong = cluster.nodes[(node + 1) % 3].try_command(&["GET", key]);
        let moved = wrong.unwrap_err();
        assert!(moved.starts_with("MOVED "), "{moved}");
        assert!(moved.ends_with(&format!(":{}", ports[node])), "{moved}");
    }
    let counts = cluster.nodes.iter().map(|node| node.command(&["DBSIZE"]));
    assert!(counts.clone().all(|count| count != "0"));

    cluster.nodes[1].kill();
    for number in [0, 2] {
        wait_until("the loss is noticed", PATIENCE, || {
            let info = cluster.nodes[number].command(&["CLUSTER", "INFO"]);
            info.contains("cluster_slots_fail:5462")
        });
    }
    for key in &keys {
        let node = cluster.node_of(key);
        if node != 1 {
            assert_eq!(cluster.nodes[node].command(&["GET", key]), "value");
        }
    }
    cluster.nodes[1].restart();
    cluster.wait_until_whole();
    let lost = keys.iter().find(|key| cluster.node_of(key) == 1).unwrap();
    assert_eq!(cluster.nodes[1].command(&["GET", lost]), "");
    assert_eq!(cluster.nodes[1].command(&["SET", lost, "new"]), "OK");
}

#[test]
fn a_proxy_before_it_breaks_the_answers_or_loses_them() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    assert_eq!(
        redis.url_via(proxy.address()),
        format!("redis://{}", proxy.address())
    );
    let open = || RedisConnection::connect_for(proxy.address(), SHORT).unwrap();
    assert_eq!(open().ask(&["PING"]).unwrap(), simple("PONG"));
    proxy.garbage(true);
    let garbled = open().ask(&["PING"]);
    assert!(garbled.is_err(), "{garbled:?}");
    proxy.garbage(false);
    for (swallowed, arrived) in [(Swallowed::Requests, ""), (Swallowed::Answers, "value")] {
        let mut open = open();
        assert_eq!(open.ask(&["PING"]).unwrap(), simple("PONG"));
        proxy.half_open(Some(swallowed));
        assert!(open.ask(&["SET", "key", "value"]).is_err());
        proxy.half_open(None);
        assert_eq!(redis.command(&["GET", "key"]), arrived, "{swallowed:?}");
    }
    assert_eq!(open().ask(&["PING"]).unwrap(), simple("PONG"));
}

/// In the process with this variable, the test below is the victim.
const VICTIM: &str = "TESTKIT_VICTIM";

/// A process with two servers is killed. The second time one server is paused.
#[test]
fn servers_and_their_directories_end_with_the_process() {
    if let Ok(state) = std::env::var(VICTIM) {
        let primary = Redis::start();
        let replica = Redis::with(replica_of(&primary));
        if state == "paused" {
            primary.pause();
        }
        for redis in [&primary, &replica] {
            println!(
                "\nSERVER {} {}",
                redis.address(),
                redis.directory().display()
            );
        }
        std::thread::sleep(PATIENCE);
        return;
    }
    for state in ["running", "paused"] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "servers_and_their_directories_end_with_the_process",
            ])
            .arg("--nocapture")
            .env(VICTIM, state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let servers: Vec<_> = lines
            .map_while(Result::ok)
            .filter_map(|line| Some(line.strip_prefix("SERVER ")?.to_owned()))
            .take(2)
            .collect();
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert_eq!(servers.len(), 2);
        for server in servers {
            let (address, home) = server.split_once(' ').unwrap();
            wait_until("the directory goes", PATIENCE, || !Path::new(home).exists());
            let connected = TcpStream::connect(address);
            assert!(connected.is_err(), "the server goes on: {state}");
        }
    }
}

#[test]
fn dropping_a_server_ends_it() {
    let redis = Redis::start();
    let home = redis.directory().to_owned();
    assert!(home.exists());
    let address = redis.address();
    drop(redis);
    assert!(!home.exists());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn many_servers_start_at_the_same_time() {
    let start = || std::thread::spawn(Redis::start);
    let servers: Vec<_> = (0..16).map(|_| start()).collect();
    let servers: Vec<_> = servers.into_iter().map(|one| one.join().unwrap()).collect();
    for redis in &servers {
        let port = open(redis).ask(&["CONFIG", "GET", "port"]).unwrap().text();
        assert_eq!(port, format!("port\n{}", redis.port()));
    }
}
