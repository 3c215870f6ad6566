//! The audit as a store keeps it: events, their places in the chain, seals, and how they are listed.

use std::sync::Arc;
use std::time::Duration;

use super::audit_chain::Sealing;
use super::raw;
use keyward_core::key::{KeyId, Timestamp};

/// From where a change was asked for. All of it is personal data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address of the connection, or `unix`.
    pub peer: Option<String>,
    /// The address of the client that a trusted proxy forwarded.
    pub client: Option<String>,
    /// The id of the request.
    pub request: Option<String>,
}

/// An event as a store holds it, unchecked: somebody may have altered it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditEvent {
    /// The number of the event. A transaction that takes longer has the lower number, so numbers do not
    /// always appear in their order.
    pub id: i64,
    /// When it happened, by the store's time.
    pub time: Timestamp,
    /// The id of the caller's token.
    pub actor_id: Option<Vec<u8>>,
    /// The caller's name.
    pub actor: String,
    /// The name of the action.
    pub action: String,
    /// The id of the key or token.
    pub subject: Option<Vec<u8>>,
    /// Further facts.
    pub detail: Option<String>,
    /// The account that owns the key.
    pub account: Option<String>,
    /// From where the change was asked for.
    pub origin: Origin,
    /// Its place in the chain; `None` until a seal covers it.
    pub link: Option<Link>,
}

/// The place of an event in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The position, without gaps, from 1.
    pub position: i64,
    /// The random input of `personal`. `None` after an erasure: then nobody can test a guess.
    pub salt: Option<Vec<u8>>,
    /// The MAC of the personal fields.
    pub personal: Vec<u8>,
    /// The MAC of the event and of its predecessor's MAC.
    pub mac: Vec<u8>,
}

/// A seal over all events of the chain so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSeal {
    /// The number, without gaps, from 1.
    pub number: i64,
    /// When it was made, by the store's time.
    pub time: Timestamp,
    /// The position of its last event.
    pub last_position: i64,
    /// The MAC of its last event.
    pub last_event: Vec<u8>,
    /// Whether it covers every event that its transaction saw, because it was not full.
    pub is_complete: bool,
    /// The version of the audit key.
    pub key: u32,
    /// The MAC of the seal before it.
    pub previous: Vec<u8>,
    /// The MAC of this seal.
    pub mac: Vec<u8>,
}

impl std::fmt::Display for AuditSeal {
    /// The text by which people note a seal: number and MAC.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.number)?;
        self.mac.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What trimming has left of the chain's beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimState {
    /// The first seal that is left; 0 if nothing was trimmed.
    pub first_seal: i64,
    /// The MAC that allows the chain to begin there.
    pub proof: Vec<u8>,
}

/// A part of the chain, read in one snapshot.
#[derive(Clone, Debug, Default)]
pub struct AuditPart {
    /// What was trimmed.
    pub trimmed: TrimState,
    /// The stored seals from the requested one on. The first one is the requested one, or the first that
    /// is stored.
    pub seals: Vec<AuditSeal>,
    /// The events in the places after the requested seal, in their order.
    pub events: Vec<AuditEvent>,
    /// Whether no later seal is stored. Then `events` also has events in higher places.
    pub is_last: bool,
    /// The oldest events without a place, of the last part.
    pub unsealed: Vec<AuditEvent>,
}

impl AuditPart {
    /// The most seals of a part.
    pub const SEALS: usize = 1_000;
    /// The most events without a place that are read.
    pub const UNSEALED: usize = 10_000;

    /// The part whose seals are the first of `seals`, which are stored from `known` on; `SEALS + 1` of them
    /// if there are so many. It covers at most `limit` events, or one seal.
    pub fn new(mut seals: Vec<AuditSeal>, known: i64, limit: i64, trimmed: TrimState) -> Self {
        let start = match seals.first() {
            Some(first) if first.number == known || first.number > 1 => first.last_position,
            _ => 0,
        };
        let fits = |seal: &&AuditSeal| seal.last_position.saturating_sub(start) <= limit;
        let fitting = seals.iter().take(Self::SEALS).take_while(fits).count();
        let kept = fitting.max(2).min(seals.len());
        let is_last = kept == seals.len();
        seals.truncate(kept);
        Self {
            trimmed,
            seals,
            is_last,
            ..Self::default()
        }
    }

    /// The places of the events to read: those after the first one, up to the second one, and the most of
    /// them.
    pub fn places(&self, known: i64, limit: i64) -> (i64, i64, i64) {
        let from = match self.seals.first() {
            Some(first) if first.number == known => first.last_position,
            _ => 0,
        };
        let to = match self.seals.last() {
            Some(last) if !self.is_last => last.last_position,
            _ => i64::MAX,
        };
        let full = raw::limit(Sealing::LIMIT);
        (
            from,
            to,
            limit.max(full.saturating_mul(2)).saturating_add(1),
        )
    }
}

/// Computes what allows the chain to begin at a seal.
pub type Prove = dyn Fn(&AuditSeal) -> Option<Vec<u8>> + Send + Sync;

/// What decides which events are deleted.
#[derive(Clone)]
pub struct Trimming {
    /// How long a seal and its events are kept.
    pub kept: Duration,
    /// Allows the chain to begin at a seal; `None` if its audit key is not there.
    pub proof: Arc<Prove>,
}

impl Trimming {
    /// The most events that one step deletes, and about the most seals.
    pub const STEP: i64 = 10_000;
    /// The condition of the seal with which the chain begins after a step. Parameter 1 is the latest time of
    /// a seal that is not kept, parameter 2 is [`Self::STEP`].
    pub const FIRST: &'static str =
        "number > (SELECT min(number) FROM audit_seals)
         AND number < coalesce((SELECT min(number) FROM audit_seals WHERE time > $1), 9223372036854775807)
         AND last_position <= (SELECT min(last_position) FROM audit_seals) + $2
       ORDER BY number DESC LIMIT 1";

    /// The seal and the proof for it.
    pub fn proven(&self, first: Option<AuditSeal>) -> Option<(AuditSeal, Vec<u8>)> {
        let first = first?;
        let proof = (self.proof)(&first)?;
        Some((first, proof))
    }

    /// The detail of the event that records a step.
    pub fn detail(events: u64, first_seal: i64) -> String {
        format!("events={events} first_seal={first_seal}")
    }
}

/// The columns of an event.
pub const COLUMNS: &str = "id, time, actor_id, actor, action, subject_id, account_id, detail, peer, client, \
     request_id, position, salt, personal, mac";

/// Where a page of the list begins: after the event with this time and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditCursor {
    /// The time of the event.
    pub time: Timestamp,
    /// Its number.
    pub id: i64,
}

/// Which events to list.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Only events of this account.
    pub account: Option<String>,
    /// Only events about this key or token.
    pub subject: Option<KeyId>,
    /// Only events by the caller with this name.
    pub actor: Option<String>,
    /// Only events with this action.
    pub action: Option<String>,
    /// Only events at this time or later.
    pub from: Option<Timestamp>,
    /// Only events before this time.
    pub until: Option<Timestamp>,
    /// The newest first.
    pub newest_first: bool,
    /// Only events after this one, in the order of the list.
    pub after: Option<AuditCursor>,
    /// The most events.
    pub limit: u32,
}

/// A page of the list.
#[derive(Clone, Debug, Default)]
pub struct AuditPage {
    /// The events.
    pub events: Vec<AuditEvent>,
    /// The last event that was looked at, if a later one may match.
    pub next: Option<AuditCursor>,
}

/// A parameter of a statement.
#[derive(Clone, Debug)]
pub enum AuditParameter {
    /// A text.
    Text(String),
    /// The id of a key or token.
    Id(KeyId),
    /// A time.
    Time(Timestamp),
    /// A number.
    Number(i64),
}

impl AuditQuery {
    /// The most events that a page looks at. No index has callers and actions, so a page of a rare one may
    /// be short, or empty, and have a successor.
    const SCANNED: i64 = 20_000;

    /// The statement of a page, for both databases, with its parameters. Its rows have the columns
    /// [`COLUMNS`] and `matches`. They are the events that an index finds: each is a candidate, and the last
    /// one tells where the next page begins.
    pub fn statement(&self) -> (String, Vec<AuditParameter>) {
        let mut parameters = Vec::new();
        let mut bind = |parameter| {
            parameters.push(parameter);
            format!("${}", parameters.len())
        };
        // The range and the order of an index. With an equality, the planner may look for the events of an
        // account among all events, in the order of their times.
        let account = self
            .account
            .clone()
            .map(AuditParameter::Text)
            .map(&mut bind);
        let columns = match account {
            Some(_) => &["account_id", "time", "id"][..],
            None => &["time", "id"],
        };
        let mut indexed = vec!["true".to_owned()];
        if let Some(subject) = self.subject {
            let subject = bind(AuditParameter::Id(subject));
            indexed.push(format!("subject_id = {subject}"));
        }
        // No event has this id.
        let at = |time| AuditCursor { time, id: i64::MIN };
        let (first, end) = (self.from.map(at), self.until.map(at));
        let (order, first, end) = match self.newest_first {
            true => ("DESC", first, [self.after, end].into_iter().flatten().min()),
            false => ("ASC", first.max(self.after), end),
        };
        for (than, bound) in [(">", first), ("<", end)] {
            if let Some(AuditCursor { time, id }) = bound {
                let mut place: Vec<_> = account.iter().cloned().collect();
                place.extend(
                    [AuditParameter::Time(time), AuditParameter::Number(id)].map(&mut bind),
                );
                let columns = columns.join(", ");
                indexed.push(format!("({columns}) {than} ({})", place.join(", ")));
            } else if let Some(account) = &account {
                indexed.push(format!("account_id {than}= {account}"));
            }
        }
        let ordered: Vec<_> = columns
            .iter()
            .map(|column| format!("{column} {order}"))
            .collect();
        let ordered = ordered.join(", ");
        let mut others = vec!["true".to_owned()];
        for (column, value) in [("actor", &self.actor), ("action", &self.action)] {
            if let Some(value) = value {
                let value = bind(AuditParameter::Text(value.clone()));
                others.push(format!("{column} = {value}"));
            }
        }
        let (indexed, others) = (indexed.join(" AND "), others.join(" AND "));
        let scanned = match (&self.actor, &self.action) {
            (None, None) => i64::from(self.limit),
            _ => Self::SCANNED,
        };
        let limit = bind(AuditParameter::Number(i64::from(self.limit)));
        let scanned = bind(AuditParameter::Number(scanned));
        // The first rows that match, and the last row that was looked at.
        let text = format!(
            "WITH scanned AS (
                 SELECT time AS t, id AS i, {others} AS matches FROM audit
                  WHERE {indexed} ORDER BY {ordered} LIMIT {scanned}),
                  found AS (
                 SELECT t, i, true AS matches FROM scanned
                  WHERE matches ORDER BY t {order}, i {order} LIMIT {limit}),
                  last AS (
                 SELECT t, i, false AS matches FROM scanned ORDER BY t {order}, i {order}
                  LIMIT 1 OFFSET {scanned} - 1)
             SELECT {COLUMNS}, page.matches FROM (SELECT * FROM found UNION ALL SELECT * FROM last) AS page
               JOIN audit ON audit.id = page.i
              ORDER BY page.matches DESC, page.t {order}, page.i {order}"
        );
        (text, parameters)
    }

    /// The page in the rows of the statement: each event, and whether it matches.
    pub fn page(&self, rows: impl IntoIterator<Item = (AuditEvent, bool)>) -> AuditPage {
        let mut page = AuditPage::default();
        for (event, matches) in rows {
            let cursor = AuditCursor::of(&event);
            if matches {
                page.events.push(event);
            } else {
                page.next = Some(cursor);
            }
        }
        if page.events.len() >= usize::try_from(self.limit).unwrap_or(usize::MAX) {
            page.next = page.events.last().map(AuditCursor::of);
        }
        page
    }
}

impl AuditCursor {
    /// The place of `event` in the list.
    pub const fn of(event: &AuditEvent) -> Self {
        Self {
            time: event.time,
            id: event.id,
        }
    }
}
