//! The promise through each door: keys are verified through gRPC, JSON, `/auth` and Envoy's Check on every
//! instance and every agent, and by the near-caches of services, at the same time, and revoked through gRPC
//! and JSON in turn, while instances, agents and services are paused and killed.

mod agent;
mod board;
mod callers;
mod door;
mod guard;

use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Cluster, Key, Options, PATIENCE, Process, Redis, eventually};

use crate::failover::{fail_over, replicate_synchronously, settle, with_standby};
use crate::{BINARY, fresh_directory, rounds};
use board::Board;
use door::{DOORS, Instance};

/// A pause that is shorter than `max_staleness`, and one that is longer.
const PAUSES: [Duration; 2] = [Duration::from_millis(800), Duration::from_millis(2_600)];
/// The pauses of a test.
fn pauses() -> impl Iterator<Item = Duration> {
    (0..rounds(1)).flat_map(|_| PAUSES)
}
const STALENESS: Duration = Duration::from_secs(2);

async fn instance(cluster: &Cluster, number: usize, may_die: bool) -> Instance {
    let process = cluster.instance(number);
    let addresses = (process.grpc, process.rest.expect("there is a JSON port"));
    Instance::new(number, addresses, cluster.token(), may_die).await
}

/// The addresses of the running instances.
fn keyward(cluster: &Cluster) -> Vec<String> {
    let running = cluster.running().into_iter();
    running
        .map(|number| format!("http://{}", cluster.grpc(number)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_valid_after_revoke_through_any_door_of_three_instances() {
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 3, Options::with_redis(redis.url()));
    let board = Board::new(cluster.directory());
    for number in cluster.running() {
        board.join(instance(&cluster, number, true).await);
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut guards = Vec::new();
    for number in 0..3 {
        guards.push(
            board
                .guard(number, &keyward(&cluster), directory.path())
                .await,
        );
    }
    let mut agents = Vec::new();
    for number in 0..2 {
        agents.push(
            board
                .agent(number, &keyward(&cluster), directory.path())
                .await,
        );
    }
    (0..4).for_each(|writer| board.write(1_000 * writer));
    board.wait_for_ends(10).await;
    for (number, pause) in (3..).zip(pauses()) {
        let [first, _, last] = cluster.running()[..] else {
            panic!("three run");
        };
        // A service and an agent are paused, others die.
        guards[1].pause();
        agents[1].pause();
        let dead = guards.remove(0);
        board.dismiss(&dead).await;
        dead.kill();
        let dead = agents.remove(0);
        board.leave(agent::FIRST + number - 3);
        dead.kill();
        tokio::time::sleep(pause).await;
        guards[0].go_on();
        agents[0].go_on();
        agents.push(
            board
                .agent(number - 1, &keyward(&cluster), directory.path())
                .await,
        );
        guards.push(
            board
                .guard(number, &keyward(&cluster), directory.path())
                .await,
        );
        board.wait_for_ends(5).await;
        cluster.instance(first).pause();
        tokio::time::sleep(pause).await;
        cluster.instance(first).go_on();
        board.wait_for_ends(5).await;
        cluster.kill(last);
        board.leave(last);
        let joined = cluster.add();
        board.join(instance(&cluster, joined, true).await);
        board.wait_for_ends(5).await;
    }
    board.end_and_check("three instances").await;
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_valid_after_revoke_through_any_door_of_the_embedded_store() {
    let (directory, data) = fresh_directory();
    let start = || {
        let mut command = Process::command(BINARY, &data);
        command.env("KEYWARD_MAX_STALENESS", "2s");
        Process::start(command, &data)
    };
    let board = Board::new(directory.path());
    let mut process = start();
    let token = process.token();
    let doors = |number, process: &Process| {
        let (grpc, rest) = (process.grpc, process.rest.expect("there is a JSON port"));
        let token = token.clone();
        async move { Instance::new(number, (grpc, rest), &token, true).await }
    };
    board.join(doors(0, &process).await);
    let keyward = |process: &Process| [format!("http://{}", process.grpc)];
    let mut service = board.guard(0, &keyward(&process), directory.path()).await;
    let mut agent = board.agent(0, &keyward(&process), directory.path()).await;
    (0..3).for_each(|writer| board.write(1_000 * writer));
    board.wait_for_ends(10).await;
    for (number, pause) in (1..).zip(pauses()) {
        process.pause();
        tokio::time::sleep(pause).await;
        process.go_on();
        board.wait_for_ends(5).await;
        // Its near-caches may be fresh for a while, and the next process knows that.
        process.kill();
        process = start();
        board.join(doors(number, &process).await);
        board.leave(number - 1);
        board.wait_for_ends(5).await;
        board.dismiss(&service).await;
        service = board
            .guard(number, &keyward(&process), directory.path())
            .await;
        board.leave(agent::FIRST + number - 1);
        agent.kill();
        agent = board
            .agent(number, &keyward(&process), directory.path())
            .await;
        board.wait_for_ends(5).await;
    }
    board.end_and_check("embedded store").await;
    assert!(process.stop().success(), "{}", process.output());
}

/// The new primary has another epoch: near-caches must begin again, and nothing that was acknowledged before
/// counts.
#[tokio::test(flavor = "multi_thread")]
async fn no_valid_after_revoke_through_any_door_over_a_failover() {
    let mut cluster = Cluster::start(BINARY, 2, with_standby());
    replicate_synchronously(&cluster).await;
    let board = Board::new(cluster.directory());
    for number in cluster.running() {
        board.join(instance(&cluster, number, false).await);
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let guard = board.guard(0, &keyward(&cluster), directory.path()).await;
    let _agent = board.agent(0, &keyward(&cluster), directory.path()).await;
    (0..3).for_each(|writer| board.write(1_000 * writer));
    board.wait_for_ends(10).await;
    guard.pause();
    fail_over(&cluster).await;
    tokio::time::sleep(PAUSES[1]).await;
    guard.go_on();
    settle(cluster.standby()).await;
    board.wait_for_ends(20).await;
    board.dismiss(&guard).await;
    board.end_and_check("a failover").await;
    cluster.stop_all();
}

/// What is asked without a verdict is neither 401 nor 403: [`Instance::ask`] panics on these.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_each_door_says_unavailable_and_none_refuses() {
    let options = Options {
        proxies: true,
        ..Options::default()
    };
    let cluster = Cluster::start(BINARY, 1, options);
    let number = cluster.running()[0];
    let instance = instance(&cluster, number, false).await;
    let (id, text) = instance.grpc.issue("42", "").await.unwrap();
    let key = Key {
        id,
        text,
        account: "42".to_owned(),
    };
    let all_say = async |wanted: Option<Verdict>| {
        eventually("each door says the same", PATIENCE, async || {
            let mut said = Vec::new();
            for door in DOORS {
                let verdict = instance.ask(door, &key).await;
                assert!(matches!(verdict, None | Some(Verdict::Valid)), "{door:?}");
                said.push(verdict);
            }
            said.iter().all(|verdict| *verdict == wanted)
        })
        .await
    };
    all_say(Some(Verdict::Valid)).await;
    cluster.proxy(number).black_hole(true);
    all_say(None).await;
    // For longer than the bound: no door takes to refusing.
    let begun = keyward_testkit::now();
    while begun.elapsed() < 2 * STALENESS {
        all_say(None).await;
    }
    cluster.proxy(number).black_hole(false);
    all_say(Some(Verdict::Valid)).await;
}
