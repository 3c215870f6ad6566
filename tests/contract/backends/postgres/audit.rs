//! Seals on Postgres: transactions that commit late, a sealer that dies, and what a seal must not delay.

use std::time::Duration;

use keyward::system::SystemClock;
use keyward_core::key::Clock as _;
use keyward_store::audit_chain::FaultKind;

use super::fresh;
use crate::audit_chain::{record, seal, sealing, verify};
use crate::world::{HOUR, World, account, actor, kill};

/// The seal waits inside its transaction.
const SLOW: &str = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_sleep(3); RETURN NEW; END$$;
    CREATE TRIGGER zz_wait AFTER INSERT ON audit_seals FOR EACH ROW EXECUTE FUNCTION wait();
    ALTER TABLE audit_seals ENABLE ALWAYS TRIGGER zz_wait";
const SLEEPERS: &str = "SELECT pid::text FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event = 'PgSleep'";

#[tokio::test]
async fn a_transaction_that_commits_after_a_seal_is_covered_by_the_next() {
    let world = World::new(fresh().await).await;
    let mut hand = world.connect().await;
    hand.run("BEGIN; INSERT INTO audit (actor, action) VALUES ('late', 'issue')")
        .await
        .unwrap();
    record(&world, 1).await;
    let first = seal(&world, 1).await;
    assert_eq!(first.last_position, 1, "the open transaction is not seen");
    hand.run("COMMIT").await.unwrap();
    let late = "audit WHERE actor = 'late' AND id < (SELECT id FROM audit WHERE position = 1)";
    assert_eq!(world.count(late).await, 1, "its number is lower");
    assert_eq!(verify(&world).await.fault, None);
    assert_eq!(seal(&world, 1).await.last_position, 2);
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events), (None, 2));
    // The same row, put there an hour later.
    world.clock.pass(HOUR);
    record(&world, 2).await;
    seal(&world, 1).await;
    world
        .by_hand(
            "INSERT INTO audit (id, time, actor, action)
             SELECT id - 100, time, 'late', 'issue' FROM audit WHERE position = 2",
        )
        .await;
    let fault = verify(&world).await.fault.unwrap();
    assert_eq!(fault.kind, FaultKind::EventInserted);
}

#[tokio::test]
async fn a_sealer_that_dies_leaves_nothing_behind() {
    let world = World::new(fresh().await).await;
    record(&world, 1).await;
    world.by_hand(SLOW).await;
    let store = world.store.clone();
    let dying = tokio::spawn(async move { store.seal_events(&sealing(1)).await });
    let mut hand = world.connect().await;
    let sleeper = loop {
        if let [pid] = &hand.read(SLEEPERS).await[..] {
            break pid.clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // Another instance does not wait for it.
    let (other, second) = (sealing(1), Duration::from_secs(1));
    let other = tokio::time::timeout(second, world.store.seal_events(&other)).await;
    assert_eq!(other.unwrap().unwrap(), None);
    hand.run(&format!("SELECT pg_terminate_backend({sleeper})"))
        .await
        .unwrap();
    assert!(dying.await.unwrap().is_err());
    world.by_hand("DROP TRIGGER zz_wait ON audit_seals").await;
    assert_eq!(world.count("audit_seals").await, 0);
    assert_eq!(
        world.count("audit WHERE position IS NOT NULL").await,
        0,
        "the whole seal is undone"
    );
    seal(&world, 1).await;
    assert_eq!(verify(&world).await.events, 1);
}

#[tokio::test]
async fn a_seal_delays_neither_a_revocation_nor_an_issue() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world.by_hand(SLOW).await;
    let store = world.store.clone();
    let sealing = tokio::spawn(async move { store.seal_events(&sealing(1)).await });
    let mut hand = world.connect().await;
    while hand.read(SLEEPERS).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let changes = async {
        world.revoke(kill(key.id)).await;
        world.plain("43").await;
    };
    let changed = tokio::time::timeout(Duration::from_secs(1), changes).await;
    changed.unwrap();
    assert!(!sealing.is_finished(), "the seal is still being made");
    sealing.await.unwrap().unwrap();
    seal(&world, 1).await;
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events), (None, 3));
}

#[tokio::test]
async fn two_instances_make_one_chain() {
    let world = World::new(fresh().await).await;
    let other = world.another().await;
    for n in 0..20 {
        record(&world, n).await;
        let (one, two) = (sealing(1), sealing(1));
        let (one, two) = tokio::join!(world.store.seal_events(&one), other.seal_events(&two));
        let made = [one.unwrap(), two.unwrap()].into_iter().flatten().count();
        assert_eq!(made, 1, "round {n}");
    }
    let found = verify(&world).await;
    assert_eq!((found.fault, found.seals, found.events), (None, 20, 20));
    other.close().await;
}

#[tokio::test]
async fn an_erasure_waits_for_a_seal_that_has_read_its_events() {
    let world = World::new(fresh().await).await;
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    world.by_hand(SLOW).await;
    let store = world.store.clone();
    let making = tokio::spawn(async move { store.seal_events(&sealing(1)).await });
    let mut hand = world.connect().await;
    while hand.read(SLEEPERS).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (erased, pseudonym, by) = (account("42"), account("erased-1"), actor());
    let erasing = world.store.erase_account(&erased, &pseudonym, &by).await;
    assert!(erasing.unwrap().is_complete);
    assert!(making.await.unwrap().unwrap().is_some());
    let found = verify(&world).await;
    assert_eq!(
        (found.fault, found.events, found.erased.len()),
        (None, 2, 2)
    );
}

/// Prints how long seals over many events take, and revocations meanwhile. `KEYWARD_AUDIT_EVENTS` sets
/// another number.
#[tokio::test(flavor = "multi_thread")]
async fn many_events_are_sealed_while_others_revoke() {
    let world = World::new(fresh().await).await;
    let events = std::env::var("KEYWARD_AUDIT_EVENTS").map_or(20_000, |text| text.parse().unwrap());
    let more = format!(
        "INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail, peer, request_id)
         SELECT gen_random_uuid(), 'bot', 'revoke', gen_random_uuid(), 'account ' || n, 'with its account',
                '192.0.2.1', md5(n::text) FROM generate_series(1, {events}) AS n"
    );
    world.by_hand(&more).await;
    let mut keys = Vec::new();
    for n in 0..200 {
        keys.push(world.plain(&n.to_string()).await.id);
    }
    let clock = SystemClock;
    let time = |since| clock.boot().since(since);
    let mut alone = Vec::new();
    for id in keys.split_off(100) {
        let started = clock.boot();
        world.revoke(kill(id)).await;
        alone.push(time(started));
    }
    let store = world.store.clone();
    let sealing = tokio::spawn(async move {
        let (started, mut seals) = (SystemClock.boot(), 0);
        while store.seal_events(&sealing(1)).await.unwrap().is_some() {
            seals += 1;
        }
        (seals, SystemClock.boot().since(started))
    });
    let mut beside = Vec::new();
    for id in keys {
        let started = clock.boot();
        world.revoke(kill(id)).await;
        beside.push(time(started));
    }
    let (seals, took) = sealing.await.unwrap();
    for times in [&mut alone, &mut beside] {
        times.sort_unstable();
    }
    let started = clock.boot();
    assert_eq!(verify(&world).await.fault, None);
    println!(
        "{events} events in {seals} seals: {took:?}; checked in {:?}; a revocation alone {:?} (p50) {:?} \
         (max), beside a seal {:?} (p50) {:?} (max)",
        time(started),
        alone[50],
        alone[99],
        beside[50],
        beside[99]
    );
    assert!(beside[99] < Duration::from_secs(1), "{:?}", beside[99]);
}
