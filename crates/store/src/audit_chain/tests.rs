//! The chain without a store: what it shows after times that fall, and after it was begun anew.

use keyward_crypto::{Active, GenerationKeys, Keyring, KeyringMaterial, SecretKey};

use super::*;

struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

fn key() -> Arc<AuditKey> {
    let secret = |byte| SecretKey::new(&[byte; 32]);
    let material = KeyringMaterial {
        generations: [(
            1,
            GenerationKeys {
                tag_key: secret(1),
                pepper: secret(2),
            },
        )]
        .into(),
        seals: [(1, secret(3))].into(),
        audits: [(1, secret(4))].into(),
        ..KeyringMaterial::default()
    };
    let keyring = Keyring::new(&material, Active::default()).unwrap();
    keyring.audit_key().unwrap()
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000_000_000 + minutes * 60_000_000)
}

fn event(id: i64, minutes: i64, action: AuditAction) -> AuditEvent {
    AuditEvent {
        id,
        time: at(minutes),
        actor: "bot".to_owned(),
        action: action.name().to_owned(),
        ..AuditEvent::default()
    }
}

/// A chain with a seal over each group of events, at the given minute.
fn chain(groups: Vec<(i64, Vec<AuditEvent>)>) -> AuditPart {
    let sealing = Sealing {
        key: key(),
        entropy: Arc::new(Zeros),
        pause: Duration::ZERO,
    };
    let mut part = AuditPart {
        is_last: true,
        ..AuditPart::default()
    };
    for (minute, mut events) in groups {
        let seal = sealing.seal(part.seals.last(), &mut events, at(minute));
        part.seals.push(seal);
        part.events.extend(events);
    }
    part
}

fn fault(part: AuditPart) -> Option<Fault> {
    let key_of = |_| Some(key());
    Verifier::new(&key_of).verify(part, 0).fault
}

use AuditAction::{ClockLower, Issue};

#[test]
fn an_event_is_put_in_between_if_a_complete_seal_should_have_covered_it() {
    let with = |minutes| {
        chain(vec![
            (60, vec![event(1, 59, Issue)]),
            (61, vec![event(2, minutes, Issue)]),
        ])
    };
    assert_eq!(fault(with(50)), None);
    let found = fault(with(49)).unwrap();
    assert_eq!(
        (found.kind, found.event, found.position),
        (FaultKind::EventInserted, Some(2), Some(2))
    );
    // A seal that was full says nothing about older events.
    let full = i64::try_from(Sealing::LIMIT).unwrap();
    let many = (1..=full).map(|id| event(id, 0, Issue)).collect();
    let backlog = chain(vec![
        (60, many),
        (60, vec![event(full + 1, 0, Issue)]),
        (61, vec![event(full + 2, 60, Issue)]),
    ]);
    assert!(!backlog.seals[0].is_complete && backlog.seals[1].is_complete);
    assert_eq!(fault(backlog), None);
}

#[test]
fn times_that_an_operator_has_lowered_are_no_fault() {
    let lowered = |action| {
        chain(vec![
            (600, vec![event(1, 600, Issue)]),
            (100, vec![event(2, 599, Issue), event(3, 100, action)]),
            (101, vec![event(4, 101, Issue)]),
        ])
    };
    assert_eq!(fault(lowered(ClockLower)), None);
    assert_eq!(fault(lowered(Issue)).unwrap().event, Some(3));
    // The same before a seal covers it.
    let mut part = chain(vec![(600, vec![event(1, 600, Issue)])]);
    part.unsealed = vec![event(2, 100, ClockLower), event(3, 101, Issue)];
    assert_eq!(fault(part.clone()), None);
    part.unsealed.remove(0);
    assert_eq!(fault(part).unwrap().event, Some(3));
}

#[test]
fn a_seal_of_another_chain_does_not_fit() {
    let one = chain(vec![
        (1, vec![event(1, 1, Issue)]),
        (2, vec![event(2, 2, Issue)]),
    ]);
    let other = chain(vec![
        (1, vec![event(7, 1, Issue)]),
        (2, vec![event(2, 2, Issue)]),
    ]);
    let mut mixed = one.clone();
    mixed.seals[1] = other.seals[1].clone();
    assert_eq!(fault(mixed).unwrap().kind, FaultKind::SealAltered);
    let mut mixed = one;
    mixed.events[1] = other.events[1].clone();
    assert_eq!(fault(mixed).unwrap().kind, FaultKind::EventAltered);
}
