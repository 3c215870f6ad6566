//! The private Redis servers have the properties that the tests of faults rely on, and leave
//! nothing behind.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyward_testkit::{
    PATIENCE, Proxy, Redis, RedisConnection, RedisOptions, RedisSentinel, Reply, Swallowed,
    wait_until,
};

/// The time after which missing data counts as lost.
const SHORT: Duration = Duration::from_millis(300);

fn simple(text: &str) -> Reply {
    Reply::Simple(text.to_owned())
}

/// A connection to the port.
fn open(redis: &Redis) -> RedisConnection {
    RedisConnection::connect(redis.address()).unwrap()
}

fn replica_of(primary: &Redis) -> RedisOptions {
    RedisOptions {
        replica_of: Some(("127.0.0.1".to_owned(), primary.port())),
        ..RedisOptions::default()
    }
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
