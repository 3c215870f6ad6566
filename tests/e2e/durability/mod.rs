//! `kill -9` at random moments: acknowledged changes are there, all others are complete or absent,
//! and the log has no gap.

mod disk;
mod ledger;

use std::process::Stdio;
use std::time::Duration;

use keyward::system::SystemEntropy;
use keyward_core::key::Entropy as _;
use keyward_proto::v1::Verdict;
use keyward_testkit::Process;
use ledger::Slot;

use crate::{BINARY, fresh_directory, serve};
/// Concurrent callers.
const CALLERS: usize = 6;
/// The latest moment of the kill in the first rounds.
const LONGEST: Duration = Duration::from_millis(400);

fn rounds() -> usize {
    crate::rounds(20)
}

fn random_up_to(longest: Duration) -> Duration {
    let mut bytes = [0; 4];
    SystemEntropy.fill(&mut bytes);
    longest.mul_f64(f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill_and_the_rest_is_whole_or_absent() {
    let (_directory, data) = fresh_directory();
    let mut all: Vec<Slot> = Vec::new();
    let mut process = serve(&data);
    let replaced = |slots: &[Slot]| slots.iter().filter(|slot| slot.is_replaced()).count();
    // On a busy machine, more rounds and later kills until enough has happened.
    for round in 0..10 * rounds() {
        if round >= rounds() && replaced(&all) >= rounds() {
            break;
        }
        let longest = LONGEST * u32::try_from(1 + round / rounds()).unwrap();
        let client = process.client().await;
        let callers: Vec<_> = (0..CALLERS)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(ledger::call_until_it_fails(client, format!("{round}-{n}")))
            })
            .collect();
        tokio::time::sleep(random_up_to(longest)).await;
        process.kill();
        let mut slots = Vec::new();
        for caller in callers {
            slots.extend(caller.await.unwrap());
        }
        disk::check(&data).await;
        process = serve(&data);
        let client = process.client().await;
        for slot in &slots {
            slot.check(&client).await;
        }
        all.extend(slots);
    }
    let client = process.client().await;
    for slot in &all {
        slot.check(&client).await;
    }
    let replaced = replaced(&all);
    println!(
        "{} slots, {replaced} of them with an acknowledged successor",
        all.len()
    );
    assert!(replaced >= rounds(), "too little happened: {replaced}");
    assert!(process.stop().success());
    disk::check(&data).await;
}

/// The first start creates a keyring, a database and a token. If it is killed at any point, the
/// next start completes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_is_killed_is_finished_by_the_next() {
    let made = ["keyward.db", "keyring", "admin.token"];
    let mut stages = [0; 4];
    for _ in 0..rounds() {
        let (_directory, data) = fresh_directory();
        let mut first = Process::command(BINARY, &data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(random_up_to(Duration::from_millis(80))).await;
        first.kill().unwrap();
        first.wait().unwrap();
        stages[made.iter().filter(|name| data.join(name).exists()).count()] += 1;
        let mut process = serve(&data);
        let client = process.client().await;
        let (_, key) = client.issue("42", "").await.unwrap();
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
        let mut keyring: Vec<_> = std::fs::read_dir(data.join("keyring"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        keyring.sort();
        assert_eq!(
            keyring,
            ["audit-1", "cache-1", "foreign-1", "generation-1", "seal-1"]
        );
        assert!(process.stop().success());
        assert_eq!(disk::tokens(&data).await, 1);
    }
    println!("killed with 0, 1, 2, 3 of {made:?} made: {stages:?}");
}
