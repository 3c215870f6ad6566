//! The chain of the audit: how events get their places, what a seal covers, and what shows that somebody
//! has altered them. Pure, so that every store seals alike.

use std::sync::Arc;
use std::time::Duration;

use super::AuditAction;
use super::audit::{AuditEvent, AuditPart, AuditSeal, Link, Origin, TrimState};
use keyward_core::key::{Entropy, Timestamp};
use keyward_crypto::{AuditKey, AuditPurpose};

/// The length of the MACs of events, and of salts.
const SHORT: usize = 16;
/// The predecessor of the first event, and of the first seal.
const NO_EVENT: [u8; SHORT] = [0; SHORT];
const NO_SEAL: [u8; 32] = [0; 32];
/// A complete seal covers each event that was written this long before it, because no transaction takes so
/// long. An older event that a later seal covers was put in between.
pub const LATEST_COMMIT: Duration = Duration::from_secs(600);

/// What makes seals.
#[derive(Clone)]
pub struct Sealing {
    /// The active audit key.
    pub key: Arc<AuditKey>,
    /// Draws the salts.
    pub entropy: Arc<dyn Entropy>,
    /// The least time between two seals, unless the first one was full.
    pub pause: Duration,
}

impl Sealing {
    /// The most events of one seal. A transaction that seals them takes about a tenth of a second, in which
    /// an embedded store writes nothing else.
    pub const LIMIT: usize = 2_000;

    /// Whether a seal may be made at `now`, after `last`.
    pub fn is_due(&self, last: Option<&AuditSeal>, now: Timestamp, events: usize) -> bool {
        let is_paused = last.is_some_and(|last| {
            now >= last.time && now.since(last.time) < self.pause && events < Self::LIMIT
        });
        events > 0 && !is_paused
    }

    /// Gives `events` their places after `last`, in the order of their numbers, and seals them.
    pub fn seal(
        &self,
        last: Option<&AuditSeal>,
        events: &mut [AuditEvent],
        now: Timestamp,
    ) -> AuditSeal {
        events.sort_unstable_by_key(|event| event.id);
        let is_complete = events.len() < Self::LIMIT;
        let mut end = End::after(last);
        for event in events {
            let mut salt = vec![0; SHORT];
            self.entropy.fill(&mut salt);
            let personal = personal(&self.key, event, &salt);
            let position = end.position + 1;
            let mac = event_mac(&self.key, event, position, &end.event, &personal);
            end.position = position;
            end.event.clone_from(&mac);
            event.link = Some(Link {
                position,
                salt: Some(salt),
                personal,
                mac,
            });
        }
        let mut seal = AuditSeal {
            number: end.number + 1,
            time: now,
            last_position: end.position,
            last_event: end.event,
            is_complete,
            key: self.key.version(),
            previous: end.seal,
            mac: Vec::new(),
        };
        seal.mac = seal_mac(&self.key, &seal);
        seal
    }
}

/// What allows the chain to begin at `seal`.
pub fn trim_proof(key: &AuditKey, seal: &AuditSeal) -> Vec<u8> {
    let number = seal.number.to_be_bytes();
    let fields = [Some(&number[..]), Some(&seal.mac)];
    key.mac(AuditPurpose::Trim, &fields)[..SHORT].to_vec()
}

fn personal(key: &AuditKey, event: &AuditEvent, salt: &[u8]) -> Vec<u8> {
    let id = event.id.to_be_bytes();
    let origin = &event.origin;
    let texts = [
        &event.account,
        &origin.peer,
        &origin.client,
        &origin.request,
    ];
    let mut fields = vec![Some(salt), Some(&id[..])];
    fields.extend(texts.map(|text| text.as_deref().map(str::as_bytes)));
    key.mac(AuditPurpose::Personal, &fields)[..SHORT].to_vec()
}

fn event_mac(
    key: &AuditKey,
    event: &AuditEvent,
    position: i64,
    previous: &[u8],
    personal: &[u8],
) -> Vec<u8> {
    let numbers = [position, event.id, event.time.as_micros()].map(i64::to_be_bytes);
    let [position, id, time] = numbers.each_ref().map(|bytes| Some(&bytes[..]));
    let fields = [
        position,
        Some(previous),
        id,
        time,
        event.actor_id.as_deref(),
        Some(event.actor.as_bytes()),
        Some(event.action.as_bytes()),
        event.subject.as_deref(),
        event.detail.as_deref().map(str::as_bytes),
        Some(personal),
    ];
    key.mac(AuditPurpose::Event, &fields)[..SHORT].to_vec()
}

fn seal_mac(key: &AuditKey, seal: &AuditSeal) -> Vec<u8> {
    let numbers = [
        seal.number,
        seal.time.as_micros(),
        seal.last_position,
        i64::from(seal.is_complete),
        i64::from(seal.key),
    ];
    let numbers = numbers.map(i64::to_be_bytes);
    let mut fields: Vec<_> = numbers.iter().map(|bytes| Some(&bytes[..])).collect();
    fields.extend([Some(&*seal.last_event), Some(&seal.previous)]);
    key.mac(AuditPurpose::Seal, &fields).to_vec()
}

/// The end of the chain so far.
struct End {
    number: i64,
    seal: Vec<u8>,
    position: i64,
    event: Vec<u8>,
    /// The time of the last complete seal, unless the store's time was lowered since.
    time: Option<Timestamp>,
}

impl End {
    fn after(seal: Option<&AuditSeal>) -> Self {
        match seal {
            Some(seal) => Self {
                number: seal.number,
                seal: seal.mac.clone(),
                position: seal.last_position,
                event: seal.last_event.clone(),
                time: seal.is_complete.then_some(seal.time),
            },
            None => Self {
                number: 0,
                seal: NO_SEAL.to_vec(),
                position: 0,
                event: NO_EVENT.to_vec(),
                time: None,
            },
        }
    }

    /// Whether an event of this time should have been sealed before.
    fn has_missed(&self, time: Timestamp) -> bool {
        self.time
            .is_some_and(|sealed| sealed.since(time) > LATEST_COMMIT)
    }
}

/// What is wrong with the chain, at the first place where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// The number of the event, if it is there.
    pub event: Option<i64>,
    /// The place in the chain.
    pub position: Option<i64>,
    /// The number of the seal that covers the place.
    pub seal: Option<i64>,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An event differs from what was sealed.
    EventAltered,
    /// A sealed event is not there.
    EventRemoved,
    /// An event was put between sealed ones.
    EventInserted,
    /// A seal differs from what was made.
    SealAltered,
    /// A seal is not there.
    SealRemoved,
    /// The first seals are not there, and no trimming explains it.
    BeginningCut,
    /// The keyring lacks the audit key of a seal.
    KeyMissing,
    /// The last seals are not there: the chain ends before the noted head.
    EndCut,
    /// The chain is another one: the seal with the number of the noted head has another MAC.
    HeadDiffers,
}

/// What a part of the chain shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// The first fault.
    pub fault: Option<Fault>,
    /// The number of seals that are right.
    pub seals: u64,
    /// The number of events that are right.
    pub events: u64,
    /// Those whose personal data was erased, with their accounts. Each is a fault unless an erasure has this
    /// pseudonym.
    pub erased: Vec<(Fault, String)>,
    /// The number of events that no seal covers yet.
    pub unsealed: u64,
    /// The last seal that is right.
    pub last: Option<AuditSeal>,
}

/// Checks one part of the chain after the other.
pub struct Verifier<'k> {
    key_of: &'k dyn Fn(u32) -> Option<Arc<AuditKey>>,
    end: End,
    found: Verified,
}

impl<'k> Verifier<'k> {
    /// Checks with the audit keys that `key_of` finds by their version.
    pub fn new(key_of: &'k dyn Fn(u32) -> Option<Arc<AuditKey>>) -> Self {
        Self {
            key_of,
            end: End::after(None),
            found: Verified::default(),
        }
    }

    /// Checks a part. `known` is the number of the seal up to which an earlier part was checked, 0 for none.
    pub fn verify(mut self, part: AuditPart, known: i64) -> Verified {
        self.found.fault = self.check(part, known).err();
        self.found
    }

    fn check(&mut self, part: AuditPart, known: i64) -> Result<(), Fault> {
        let mut seals = part.seals.into_iter().peekable();
        if let Some(first) = seals.next_if(|seal| seal.number != 1 || known == 1) {
            self.check_seal(&first)?;
            if first.number != known {
                self.check_beginning(&first, &part.trimmed)?;
            }
            self.end = End::after(Some(&first));
            self.found.last = Some(first);
        }
        let mut events = part.events.into_iter().peekable();
        for seal in seals {
            if seal.number != self.end.number + 1 {
                return Err(self.fault(FaultKind::SealRemoved));
            }
            let key = self.check_seal(&seal)?;
            let mut covered = Vec::new();
            while let Some(event) = events.next_if(|event| place(event) <= seal.last_position) {
                covered.push(event);
            }
            if covered.iter().any(lowers_clock) {
                self.end.time = None;
            }
            self.check_events(&key, &seal, covered)?;
            if seal.previous != self.end.seal || seal.last_event != self.end.event {
                return Err(self.fault(FaultKind::SealAltered));
            }
            let complete = self.end.time;
            self.end = End::after(Some(&seal));
            self.end.time = self.end.time.or(complete);
            self.found.seals += 1;
            self.found.last = Some(seal);
        }
        if part.is_last {
            if let Some(event) = events.next() {
                return Err(self.inserted(&event, None));
            }
            let is_lowered = part.unsealed.iter().any(lowers_clock);
            for event in part.unsealed {
                if !is_lowered && self.end.has_missed(event.time) {
                    return Err(self.inserted(&event, None));
                }
                self.found.unsealed += 1;
            }
        }
        Ok(())
    }

    /// Checks a seal by itself.
    fn check_seal(&self, seal: &AuditSeal) -> Result<Arc<AuditKey>, Fault> {
        let fault = |kind| Fault {
            kind,
            event: None,
            position: None,
            seal: Some(seal.number),
        };
        let key = (self.key_of)(seal.key).ok_or_else(|| fault(FaultKind::KeyMissing))?;
        match seal_mac(&key, seal) == seal.mac {
            true => Ok(key),
            false => Err(fault(FaultKind::SealAltered)),
        }
    }

    /// Checks that the seals before the first one were trimmed.
    fn check_beginning(&self, first: &AuditSeal, trimmed: &TrimState) -> Result<(), Fault> {
        let is_proven = trimmed.first_seal == first.number
            && (self.key_of)(first.key).is_some_and(|key| trim_proof(&key, first) == trimmed.proof);
        match is_proven {
            true => Ok(()),
            false => Err(Fault {
                kind: FaultKind::BeginningCut,
                event: None,
                position: None,
                seal: Some(first.number),
            }),
        }
    }

    /// Checks the events that `seal` covers.
    fn check_events(
        &mut self,
        key: &AuditKey,
        seal: &AuditSeal,
        events: Vec<AuditEvent>,
    ) -> Result<(), Fault> {
        for event in events {
            let position = place(&event);
            if position <= self.end.position {
                return Err(self.inserted(&event, Some(seal.number)));
            }
            if position > self.end.position + 1 {
                return Err(self.fault(FaultKind::EventRemoved));
            }
            let altered = Fault {
                kind: FaultKind::EventAltered,
                event: Some(event.id),
                position: Some(position),
                seal: Some(seal.number),
            };
            let Some(link) = &event.link else {
                return Err(altered);
            };
            if event_mac(key, &event, position, &self.end.event, &link.personal) != link.mac {
                return Err(altered);
            }
            match &link.salt {
                Some(salt) if personal(key, &event, salt) != link.personal => return Err(altered),
                Some(_) => {}
                None if event.origin != Origin::default() => return Err(altered),
                None => {
                    let pseudonym = event.account.clone().unwrap_or_default();
                    self.found.erased.push((altered, pseudonym));
                }
            }
            if self.end.has_missed(event.time) {
                return Err(self.inserted(&event, Some(seal.number)));
            }
            self.end.position = position;
            self.end.event.clone_from(&link.mac);
            self.found.events += 1;
        }
        match self.end.position == seal.last_position {
            true => Ok(()),
            false => Err(self.fault(FaultKind::EventRemoved)),
        }
    }

    /// A fault of what follows the end so far.
    fn fault(&self, kind: FaultKind) -> Fault {
        Fault {
            kind,
            event: None,
            position: (kind == FaultKind::EventRemoved).then_some(self.end.position + 1),
            seal: Some(self.end.number + 1),
        }
    }

    fn inserted(&self, event: &AuditEvent, seal: Option<i64>) -> Fault {
        Fault {
            kind: FaultKind::EventInserted,
            event: Some(event.id),
            position: event.link.as_ref().map(|link| link.position),
            seal,
        }
    }
}

fn place(event: &AuditEvent) -> i64 {
    event.link.as_ref().map_or(0, |link| link.position)
}

/// Whether times begin earlier again after this event.
fn lowers_clock(event: &AuditEvent) -> bool {
    event.action == AuditAction::ClockLower.name()
}

#[cfg(test)]
mod tests;
