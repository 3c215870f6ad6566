//! The chain of the audit: seals cover every event, and each change by hand is found.

use std::sync::Arc;
use std::time::Duration;

use keyward_crypto::{Active, AuditKey, GenerationKeys, Keyring, KeyringMaterial, SecretKey};
use keyward_store::audit_chain::{FaultKind, Verified, Verifier, trim_proof};
use keyward_store::{
    Actor, AuditAction, AuditEntry, AuditQuery, AuditSeal, Origin, Sealing, Trimming,
};

mod list;
mod planted;

pub(crate) use list::*;
pub(crate) use planted::*;

use crate::doubles::Counting;
use crate::world::{DAY, HOUR, World, account, actor, kill};

/// An audit key that depends on its version only.
fn key(version: u32) -> Arc<AuditKey> {
    let secret = |byte| SecretKey::new(&[byte; 32]);
    let number = u8::try_from(version).unwrap();
    let material = KeyringMaterial {
        generations: [(
            1,
            GenerationKeys {
                tag_key: secret(101),
                pepper: secret(102),
            },
        )]
        .into(),
        seals: [(1, secret(103))].into(),
        audits: [(version, secret(number))].into(),
        ..KeyringMaterial::default()
    };
    let keyring = Keyring::new(&material, Active::default()).unwrap();
    keyring.audit_key().unwrap()
}

pub(crate) fn sealing(version: u32) -> Sealing {
    Sealing {
        key: key(version),
        entropy: Arc::new(Counting::default()),
        pause: Duration::ZERO,
    }
}

pub(crate) async fn seal(world: &World, version: u32) -> AuditSeal {
    let sealed = world.store.seal_events(&sealing(version)).await.unwrap();
    sealed.expect("a seal is due").0
}

/// Checks the whole chain with the audit keys 1 and 2, a few events at a time.
pub(crate) async fn verify(world: &World) -> Verified {
    verify_with(world, &[1, 2]).await
}

async fn verify_with(world: &World, versions: &[u32]) -> Verified {
    let key_of = |version| versions.contains(&version).then(|| key(version));
    let mut whole = Verified::default();
    loop {
        let known = whole.last.as_ref().map_or(0, |last| last.number);
        let part = world.store.audit_part(known, 5).await.unwrap();
        let is_last = part.is_last;
        let found = Verifier::new(&key_of).verify(part, known);
        whole = Verified {
            seals: whole.seals + found.seals,
            events: whole.events + found.events,
            erased: [whole.erased, found.erased].concat(),
            last: found.last.or(whole.last),
            ..found
        };
        if is_last || whole.fault.is_some() {
            return whole;
        }
    }
}

/// Records an event with every field.
pub(crate) async fn record(world: &World, number: u64) {
    let entry = AuditEntry {
        action: AuditAction::Reveal,
        id: Some(world.successor().id),
        account: Some(account("42")),
        detail: Some(format!("number {number}")),
    };
    let origin = Origin {
        peer: Some("192.0.2.1".to_owned()),
        client: Some("198.51.100.7".to_owned()),
        request: Some(format!("request-{number}")),
    };
    let actor = Actor { origin, ..actor() };
    world.store.record(entry, &actor).await.unwrap();
}

/// Three seals of four events each, an hour apart.
async fn three_seals(world: &World) -> Vec<AuditSeal> {
    let mut seals = Vec::new();
    for n in 0..3 {
        for m in 0..4 {
            record(world, 4 * n + m).await;
        }
        seals.push(seal(world, 1).await);
        world.clock.pass(HOUR);
    }
    seals
}

/// Runs SQL by hand, with no trigger in its way.
async fn unguarded(world: &World) {
    let mut hand = world.connect().await;
    for table in ["audit", "audit_seals", "audit_state"] {
        let disable = format!("ALTER TABLE {table} DISABLE TRIGGER ALL");
        let is_postgres = hand.run(&disable).await.is_ok();
        for trigger in [
            "fixed", "appended", "deleted", "made", "kept", "one", "rises",
        ] {
            if !is_postgres {
                let drop = format!("DROP TRIGGER IF EXISTS {table}_{trigger}");
                hand.run(&drop).await.unwrap();
            }
        }
    }
}

pub(crate) async fn seals_cover_all_events_and_are_right(world: World) {
    assert_eq!(verify(&world).await, Verified::default());
    let nothing = world.store.seal_events(&sealing(1)).await.unwrap();
    assert_eq!(nothing, None, "without events there is no seal");
    let seals = three_seals(&world).await;
    record(&world, 12).await;
    let numbers: Vec<_> = seals
        .iter()
        .map(|seal| (seal.number, seal.last_position, seal.is_complete))
        .collect();
    assert_eq!(numbers, [(1, 4, true), (2, 8, true), (3, 12, true)]);
    let found = verify(&world).await;
    assert_eq!(found.fault, None);
    assert_eq!((found.seals, found.events, found.unsealed), (3, 12, 1));
    assert_eq!(found.last.as_ref(), seals.last());
    // Another key does not fit.
    let key_of = |_| Some(key(2));
    let part = world.store.audit_part(0, 100).await.unwrap();
    let other = Verifier::new(&key_of).verify(part, 0);
    assert_eq!(other.fault.unwrap().kind, FaultKind::SealAltered);
    let world = world.abandoned_and_reopened().await;
    assert_eq!(verify(&world).await, found);
}

pub(crate) async fn a_seal_waits_for_its_pause(world: World) {
    record(&world, 0).await;
    seal(&world, 1).await;
    record(&world, 1).await;
    let paused = Sealing {
        pause: Duration::from_secs(55),
        ..sealing(1)
    };
    assert_eq!(world.store.seal_events(&paused).await.unwrap(), None);
    world.clock.pass(Duration::from_secs(55));
    assert!(world.store.seal_events(&paused).await.unwrap().is_some());
}

pub(crate) async fn concurrent_sealers_make_one_chain(world: World) {
    let (store, mut sealers) = (Arc::clone(&world.store), Vec::new());
    for n in 0..40 {
        record(&world, n).await;
        let store = Arc::clone(&store);
        sealers.push(tokio::spawn(async move {
            store.seal_events(&sealing(1)).await.map(drop)
        }));
    }
    for sealer in sealers {
        sealer.await.unwrap().unwrap();
    }
    let _ = world.store.seal_events(&sealing(1)).await.unwrap();
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events, found.unsealed), (None, 40, 0));
}

pub(crate) async fn an_event_that_commits_late_is_sealed_by_the_next_seal(world: World) {
    record(&world, 0).await;
    let first = seal(&world, 1).await;
    let late = |id: i64, before: Duration| {
        let at = first.time.as_micros() - i64::try_from(before.as_micros()).unwrap();
        let time = world.time(at);
        format!(
            "INSERT INTO audit (id, time, actor, action) VALUES ({id}, {time}, 'late', 'issue')"
        )
    };
    world.by_hand(&late(-5, Duration::from_secs(300))).await;
    assert_eq!(verify(&world).await.fault, None);
    world.clock.pass(HOUR);
    let second = seal(&world, 1).await;
    assert_eq!(second.last_position, 2);
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events), (None, 2));
    // No transaction takes so long.
    world.by_hand(&late(-4, Duration::from_secs(3_600))).await;
    assert_eq!(verify(&world).await.fault.unwrap().event, Some(-4));
    seal(&world, 1).await;
    let fault = verify(&world).await.fault.unwrap();
    assert_eq!(
        (fault.kind, fault.event, fault.seal),
        (FaultKind::EventInserted, Some(-4), Some(3))
    );
}

pub(crate) async fn many_events_are_sealed_in_several_seals(world: World) {
    record(&world, 0).await;
    let rows = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4999)";
    let more = format!(
        "INSERT INTO audit (time, actor, action, detail) {rows} SELECT time, actor, action, CAST(n AS TEXT) FROM audit, n"
    );
    world.by_hand(&more).await;
    // They are older than any transaction when they are sealed.
    world.clock.pass(HOUR);
    let mut sealed = Vec::new();
    while let Some((seal, events)) = world.store.seal_events(&sealing(1)).await.unwrap() {
        sealed.push((events, seal.is_complete));
    }
    assert_eq!(sealed, [(2_000, false), (2_000, false), (1_000, true)]);
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events), (None, 5_000));
}

pub(crate) async fn seals_of_an_earlier_key_are_checked_with_it(world: World) {
    record(&world, 0).await;
    seal(&world, 1).await;
    record(&world, 1).await;
    seal(&world, 2).await;
    record(&world, 2).await;
    seal(&world, 2).await;
    assert_eq!(verify(&world).await.fault, None);
    let fault = verify_with(&world, &[2]).await.fault.unwrap();
    assert_eq!((fault.kind, fault.seal), (FaultKind::KeyMissing, Some(1)));
    let fault = verify_with(&world, &[1]).await.fault.unwrap();
    assert_eq!((fault.kind, fault.seal), (FaultKind::KeyMissing, Some(2)));
}

pub(crate) async fn an_erasure_is_no_alteration(world: World) {
    let key = world.plain("42").await;
    let other = world.plain("43").await;
    seal(&world, 1).await;
    world.revoke(kill(key.id)).await;
    let (erased, pseudonym, by) = (account("42"), account("erased-1"), actor());
    let erasing = world.store.erase_account(&erased, &pseudonym, &by);
    assert!(erasing.await.unwrap().is_complete);
    // One event was sealed before the erasure, one after it.
    seal(&world, 1).await;
    let found = verify(&world).await;
    assert_eq!((found.fault, found.events), (None, 4));
    let pseudonyms: Vec<_> = found.erased.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(pseudonyms, ["erased-1"]);
    let query = AuditQuery {
        account: Some("erased-1".to_owned()),
        limit: 10,
        ..AuditQuery::default()
    };
    let events = world.store.list_events(&query).await.unwrap().events;
    let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
    assert_eq!(actions, ["issue", "revoke", "account_erase"]);
    let link = events[0].link.as_ref().unwrap();
    assert_eq!((&link.salt, &events[0].origin), (&None, &Origin::default()));
    assert_eq!(world.record(other.id).await, other);
}

fn trimming(kept: Duration) -> Trimming {
    Trimming {
        kept,
        proof: Arc::new(|seal| Some(trim_proof(&key(seal.key), seal))),
    }
}

pub(crate) async fn old_events_are_trimmed_by_whole_seals(world: World) {
    let seals = three_seals(&world).await;
    let trim = async |kept| world.store.trim_events(&trimming(kept)).await.unwrap();
    assert_eq!(trim(40 * DAY).await, 0, "nothing is old enough");
    world.clock.pass(40 * DAY);
    record(&world, 12).await;
    let last = seal(&world, 1).await;
    // All three are old; the last of them stays as the beginning.
    assert_eq!(trim(35 * DAY).await, 12);
    assert_eq!(trim(35 * DAY).await, 0);
    let found = verify(&world).await;
    assert_eq!((found.fault, found.seals, found.events), (None, 1, 1));
    assert_eq!(found.unsealed, 1, "an event records the trimming");
    assert_eq!(found.last, Some(last));
    let query = AuditQuery {
        action: Some(AuditAction::AuditTrim.name().to_owned()),
        limit: 10,
        ..AuditQuery::default()
    };
    let events = world.store.list_events(&query).await.unwrap().events;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].actor.as_str(), events[0].detail.as_deref()),
        ("keyward", Some("events=12 first_seal=3"))
    );
    seal(&world, 1).await;
    assert_eq!(verify(&world).await.fault, None);
    let part = world.store.audit_part(0, 100).await.unwrap();
    assert_eq!(part.seals[0], seals[2]);
    // A key that is missing permits nothing.
    world.clock.pass(40 * DAY);
    let unproven = Trimming {
        kept: 35 * DAY,
        proof: Arc::new(|_| None),
    };
    assert_eq!(world.store.trim_events(&unproven).await.unwrap(), 0);
}

pub(crate) async fn nothing_but_trimming_deletes_events_and_seals(world: World) {
    three_seals(&world).await;
    for sql in [
        "DELETE FROM audit WHERE position = 1",
        "DELETE FROM audit WHERE position IS NULL OR position > 0",
        "DELETE FROM audit_seals WHERE number = 1",
        "UPDATE audit_seals SET number = 9",
        "UPDATE audit SET position = 7 WHERE position = 6",
        "UPDATE audit SET salt = NULL WHERE position = 6",
        "UPDATE audit SET peer = NULL",
    ] {
        world.refused(sql, "cannot be rewritten").await;
    }
    world
        .refused("UPDATE audit_state SET first_seal = 0", "only rises")
        .await;
    world
        .refused("DELETE FROM audit_state", "has one row")
        .await;
    assert_eq!(verify(&world).await.events, 12);
}
