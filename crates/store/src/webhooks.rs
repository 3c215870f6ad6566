//! The events for webhooks, as a store keeps them. The schema's triggers write an event in the transaction of the
//! change that it tells. An event waits until it is delivered or dead, and meanwhile the later events about its
//! key wait for it. Both databases run the statements here.

use std::time::Duration;

use super::StoreError;
use keyward_core::key::{KeyId, Timestamp};

keyward_core::named! {
    /// What an event tells about its key. Stores, settings and messages use its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum EventKind {
        /// The key was created.
        Issued = "key.issued",
        /// The key got a time from which on it is dead, or an earlier one.
        Revoked = "key.revoked",
        /// The key expires soon.
        Expiring = "key.expiring",
        /// The key was refused because it is dead or disabled.
        Refused = "key.refused",
    }
}

impl EventKind {
    /// The kind in a column.
    pub fn stored(name: &str) -> super::Result<Self> {
        let unknown = || StoreError::Damaged(format!("'{name}' is no kind of event"));
        Self::parse(name).ok_or_else(unknown)
    }
}

/// A webhook, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// The events that are written for it.
    pub events: Vec<EventKind>,
}

impl Webhook {
    /// The webhook in a row, with the names of its events.
    pub fn stored(name: String, events: &[String]) -> super::Result<Self> {
        let events = events.iter().map(|name| EventKind::stored(name));
        let events = events.collect::<super::Result<_>>()?;
        Ok(Self { name, events })
    }

    /// The names of its events.
    pub fn event_names(&self) -> Vec<&'static str> {
        self.events.iter().map(|kind| kind.name()).collect()
    }
}

/// An event for one webhook, claimed by one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedEvent {
    /// The number of the event. Events about one key have rising numbers.
    pub id: i64,
    /// The random id that the receiver sees. A restored store uses numbers again, but not these.
    pub message: [u8; 16],
    /// The key.
    pub key: KeyId,
    /// What happened.
    pub kind: EventKind,
    /// When it happened, by the store's time.
    pub time: Timestamp,
    /// The time that the event tells: of the expiry, of the revocation, or of the refusal.
    pub at: Option<Timestamp>,
    /// How often the event was claimed, with this time.
    pub claims: i64,
    /// How many attempts have failed.
    pub failures: i64,
}

/// What became of a claimed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The receiver has it.
    Delivered,
    /// The attempt failed; the next one is due after this time.
    Failed(Duration),
    /// Nothing was tried; the next attempt is due after this time.
    Postponed(Duration),
    /// The last attempt failed.
    Dead,
    /// The receiver is gone: nothing is sent to it until a replay, and the event waits.
    Gone,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the event.
    pub event: i64,
    /// Its claims when the attempt began: a failure counts only if nobody has claimed or replayed it since.
    pub claims: i64,
    /// Its failures before the attempt, so that an attempt that is noted twice counts once.
    pub failures: i64,
    /// What became of it.
    pub outcome: AttemptOutcome,
}

impl ClaimedEvent {
    /// The end of the attempt that the claim was for.
    pub const fn ended(&self, outcome: AttemptOutcome) -> Attempt {
        Attempt {
            event: self.id,
            claims: self.claims,
            failures: self.failures,
            outcome,
        }
    }
}

impl Attempt {
    /// The state of the event after the attempt, or `failed` or `gone`, and the pause before the next one.
    pub const fn state(&self) -> (&'static str, Duration) {
        match self.outcome {
            AttemptOutcome::Delivered => ("delivered", Duration::ZERO),
            AttemptOutcome::Failed(pause) => ("failed", pause),
            AttemptOutcome::Postponed(pause) => ("waiting", pause),
            AttemptOutcome::Dead => ("dead", Duration::ZERO),
            AttemptOutcome::Gone => ("gone", Duration::ZERO),
        }
    }
}

/// What waits for a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookStatus {
    /// The webhook.
    pub webhook: Webhook,
    /// The number of events that wait, at most [`COUNTED`].
    pub waiting: u64,
    /// The time of the oldest one.
    pub oldest: Option<Timestamp>,
    /// The number of dead events that are kept, at most [`COUNTED`].
    pub dead: u64,
    /// Whether the receiver has answered that it is gone: nothing is sent until a replay.
    pub is_gone: bool,
}

/// Which events are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The one with this random id.
    Message([u8; 16]),
    /// The dead ones.
    Dead,
    /// Those that wait after a failure.
    Failing,
    /// Those that happened at this time or later and are delivered or dead.
    Since(Timestamp),
}

/// Events to send again.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The name of the webhook.
    pub webhook: String,
    /// Which of its events.
    pub events: Replayed,
    /// Only events that were delivered or died by this time, so that repeated steps come to an end.
    pub until: Timestamp,
    /// Only events behind this place: of the last one of the step before.
    pub after: EventPlace,
}

impl Replay {
    /// The place behind which the events are.
    pub fn start(&self) -> EventPlace {
        match self.events {
            Replayed::Since(time) => self.after.max((time, 0)),
            _ => self.after,
        }
    }
}

/// The place of an event among those of a webhook: its time, then its number.
pub type EventPlace = (Timestamp, i64);

/// The place of a key among those that expire: its expiry, then its id.
pub type ExpiryPlace = (Timestamp, KeyId);
/// The place before all others.
pub const FIRST_PLACE: ExpiryPlace = (Timestamp::from_micros(0), KeyId::from_bytes([0; 16]));

/// One step through the keys that expire soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiryStep {
    /// How many keys were noted.
    pub noted: u64,
    /// Where the next step begins: at [`FIRST_PLACE`] if this one was the last.
    pub next: ExpiryPlace,
}

impl ExpiryStep {
    /// The step that has begun at `place` and has noted so many keys. `last` is the last key that it has looked
    /// at, if there may be more.
    pub fn new(noted: u64, place: ExpiryPlace, last: Option<ExpiryPlace>) -> Self {
        // A full step may have left some of the keys that it has looked at.
        let is_full = noted >= EXPIRING_STEP.unsigned_abs();
        let next = if is_full {
            place
        } else {
            last.unwrap_or(FIRST_PLACE)
        };
        Self { noted, next }
    }
}

/// For how long a webhook is known that no instance has named since.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// For how long delivered and dead events are kept. An event that has waited for so long is dead.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The most events that one step of a replay changes.
pub const REPLAY_STEP: i64 = 1_000;
/// The most events that one step of trimming deletes.
pub const TRIM_STEP: i64 = 10_000;
/// The most events of a webhook that are dead after one step because they have waited for too long.
const GIVEN_UP_STEP: i64 = 1_000;
/// The most events of a webhook that are counted.
pub const COUNTED: u64 = 100_001;
/// The most keys that one step notes as expiring.
pub const EXPIRING_STEP: i64 = 500;
/// The most keys that one step looks at for this.
pub const EXPIRING_LOOKED_AT: i64 = 5_000;
/// The most events that a claim looks at.
const LOOKED_AT: i64 = 100;

/// The time at which the event before `e` about its key is due, if there is one: behind it `e` waits. Under every
/// plan it reads one entry of one index.
const BEFORE: &str = "SELECT p.due FROM webhook_events AS p
     WHERE p.webhook = $1 AND p.key_id = e.key_id AND p.state = 'waiting' AND p.id < e.id
     ORDER BY p.id DESC LIMIT 1";

/// What differs between the databases.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// The store's time, once for a statement.
    pub now: &'static str,
    /// Follows the rows that a claim reads, so that several instances claim different ones.
    pub lock: &'static str,
    /// Follows the rows that a change of many events reads in the order of their numbers or times: changes at
    /// the same time lock them in one order.
    pub lock_in_order: &'static str,
    /// The attempts as rows `o(id, claims, failures, state, pause)`, from the first parameters. A pause can be
    /// added to a time.
    pub attempts: &'static str,
}

impl Dialect {
    fn fill(&self, text: &str) -> String {
        text.replace("{now}", self.now)
            .replace("{lock}", self.lock)
            .replace("{lock_in_order}", self.lock_in_order)
            .replace("{attempts}", self.attempts)
    }

    /// The first events that are due. Parameter 1 is the webhook.
    fn due(&self) -> String {
        self.fill(&format!(
            "WITH looked_at AS MATERIALIZED (
                 SELECT id, key_id FROM webhook_events
                  WHERE webhook = $1 AND state = 'waiting' AND due <= {{now}}
                  ORDER BY due, id LIMIT {LOOKED_AT} {{lock}})"
        ))
    }

    /// A row if there is something to claim. Parameter 1 is the webhook.
    pub fn is_due(&self) -> String {
        self.fill(
            "SELECT 1 FROM webhook_events
              WHERE webhook = $1 AND state = 'waiting' AND due <= {now}
                AND NOT EXISTS (SELECT 1 FROM webhooks WHERE name = $1 AND gone)
              ORDER BY due, id LIMIT 1",
        )
    }

    /// Moves each due event behind the one that it waits for, so that a claim need not look at it again.
    pub fn queue(&self) -> String {
        format!(
            "{} UPDATE webhook_events AS e SET due = ({BEFORE}), queued = true
              WHERE e.id IN (SELECT id FROM looked_at) AND ({BEFORE}) > e.due",
            self.due()
        )
    }

    /// Claims events that are due and wait for no other. Parameter 2 is the most of them, parameter 3 the
    /// time until others may claim them.
    pub fn claim(&self) -> String {
        let claim = self.fill(&format!(
            ", free AS MATERIALIZED (
                 SELECT e.id FROM looked_at AS e
                  WHERE ({BEFORE}) IS NULL
                    AND NOT EXISTS (SELECT 1 FROM webhooks WHERE name = $1 AND gone)
                  ORDER BY e.id LIMIT $2)
             UPDATE webhook_events SET due = {{now}} + $3, claims = claims + 1, queued = false
              WHERE id IN (SELECT id FROM free)
             RETURNING id, message_id, key_id, type, time, at, claims, failures"
        ));
        self.due() + &claim
    }

    /// The statements that note the ends of attempts, in their order.
    pub fn attempts_end(&self) -> [String; 3] {
        [self.gone(), self.note(), self.release()]
    }

    /// Notes that receivers are gone, unless the events of these attempts were replayed since.
    fn gone(&self) -> String {
        self.fill(
            "UPDATE webhooks SET gone = true
              WHERE NOT gone AND name IN (
                    SELECT e.webhook FROM webhook_events AS e, {attempts}
                     WHERE e.id = o.id AND o.state = 'gone' AND e.claims = o.claims)",
        )
    }

    fn note(&self) -> String {
        self.fill(
            "WITH locked AS MATERIALIZED (
                 SELECT id FROM webhook_events WHERE id IN (SELECT o.id FROM {attempts})
                  ORDER BY id {lock_in_order})
             UPDATE webhook_events AS e
                SET state = CASE WHEN o.state IN ('failed', 'gone') THEN 'waiting' ELSE o.state END,
                    due = {now} + o.pause,
                    failures = CASE WHEN o.state IN ('failed', 'dead') THEN o.failures + 1 ELSE e.failures END,
                    done_time = CASE WHEN o.state IN ('delivered', 'dead') THEN {now} END,
                    queued = false
               FROM {attempts}
              WHERE e.id IN (SELECT id FROM locked) AND e.id = o.id AND e.state NOT IN ('delivered', 'dead')
                AND (o.state = 'delivered' OR e.claims = o.claims)",
        )
    }

    /// Makes the events due that have waited for those of the attempts. Others wait for the end of their own claims
    /// or pauses.
    fn release(&self) -> String {
        self.fill(
            "UPDATE webhook_events SET due = {now}, queued = false
              WHERE queued AND (webhook, key_id) IN (
                    SELECT e.webhook, e.key_id FROM webhook_events AS e, {attempts}
                     WHERE e.id = o.id AND e.done_time IS NOT NULL)",
        )
    }

    /// One step of a replay, which makes claims of before void. Parameter 1 is the webhook, parameter 2 the
    /// latest end, parameters 3 and 4 the place behind which it begins, parameter 5 the random id. Each choice
    /// begins with the condition of one index, and implies that of no other: a plan that is made while the
    /// table is small finds few rows in a large one, too.
    pub fn replay(&self, events: &Replayed) -> String {
        let which = match events {
            Replayed::Message(_) => "message_id = $5",
            Replayed::Dead => "state = 'dead'",
            Replayed::Failing => {
                "failures > 0 AND state NOT IN ('delivered', 'dead') AND due > {now}"
            }
            Replayed::Since(_) => "done_time IS NOT NULL",
        };
        self.fill(&format!(
            "WITH chosen AS MATERIALIZED (
                 SELECT id FROM webhook_events
                  WHERE {which} AND webhook = $1 AND (time, id) > ($3, $4)
                    AND (done_time IS NULL OR done_time <= $2)
                  ORDER BY time, id LIMIT {REPLAY_STEP} {{lock_in_order}})
             UPDATE webhook_events
                SET state = 'waiting', due = {{now}}, queued = false, done_time = NULL, failures = 0, claims = claims + 1
              WHERE id IN (SELECT id FROM chosen)
             RETURNING time, id"
        ))
    }

    /// What deletes old rows, each in one step, and the age of the rows: webhooks that no instance names any
    /// more, the expiries that were told, and events that were delivered or died.
    pub fn trim(&self) -> [(String, Duration); 3] {
        let step = |table, column, time| {
            self.fill(&format!(
                "DELETE FROM {table} WHERE {column} IN (
                     SELECT {column} FROM {table} WHERE {time} < {{now}} - $1 ORDER BY {time} LIMIT {TRIM_STEP})"
            ))
        };
        [
            (step("webhooks", "name", "seen_time"), FORGOTTEN_AFTER),
            (step("expiry_notices", "key_id", "expire_time"), KEPT),
            (step("webhook_events", "id", "done_time"), KEPT),
        ]
    }

    /// The first events that have waited for longer than parameter 2, also for a webhook that is gone or
    /// forgotten. Parameter 1 is the webhook.
    pub fn waits_too_long(&self) -> String {
        self.fill(&format!(
            "SELECT * FROM webhook_events
              WHERE webhook = $1 AND done_time IS NULL AND time < {{now}} - $2 ORDER BY time LIMIT {GIVEN_UP_STEP}"
        ))
    }
}

/// The webhooks with events that wait. Finds them one by one in an index.
pub const WITH_WAITING: &str = "WITH RECURSIVE names(webhook) AS (
         SELECT (SELECT webhook FROM webhook_events WHERE done_time IS NULL ORDER BY webhook LIMIT 1)
          UNION ALL
         SELECT (SELECT e.webhook FROM webhook_events AS e
                  WHERE e.done_time IS NULL AND e.webhook > n.webhook ORDER BY e.webhook LIMIT 1)
           FROM names AS n WHERE n.webhook IS NOT NULL)
     SELECT webhook FROM names WHERE webhook IS NOT NULL";

/// What waits for each webhook.
pub fn status() -> String {
    format!(
        "SELECT w.name, w.events, w.gone,
                (SELECT count(*) FROM (SELECT 1 FROM webhook_events AS e
                                        WHERE e.webhook = w.name AND e.done_time IS NULL LIMIT {COUNTED}) AS c)
                AS waiting,
                (SELECT e.time FROM webhook_events AS e
                  WHERE e.webhook = w.name AND e.done_time IS NULL ORDER BY e.time LIMIT 1) AS oldest,
                (SELECT count(*) FROM (SELECT 1 FROM webhook_events AS e
                                        WHERE e.webhook = w.name AND e.state = 'dead' LIMIT {COUNTED}) AS c)
                AS dead
           FROM webhooks AS w ORDER BY w.name"
    )
}

/// A call at the end of which a webhook sends again, even if its receiver was gone.
pub const REVIVE: &str = "UPDATE webhooks SET gone = false WHERE name = $1 AND gone";
