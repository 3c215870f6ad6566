//! The events for webhooks, as a store keeps them. The schema's triggers write an event in the transaction of the
//! change that it tells. An event waits until it is delivered or dead, and meanwhile the later events about its
//! key wait for it. Both databases run the statements here.

use std::time::Duration;

use super::StoreError;
use keyward_core::key::{KeyId, Timestamp};

/// What an event tells about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// The key was created.
    Issued,
    /// The key got a time from which on it is dead, or an earlier one.
    Revoked,
    /// The key expires soon.
    Expiring,
    /// The key was refused because it is dead or disabled.
    Refused,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Issued, Self::Revoked, Self::Expiring, Self::Refused];

    /// The name in stores, settings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issued => "key.issued",
            Self::Revoked => "key.revoked",
            Self::Expiring => "key.expiring",
            Self::Refused => "key.refused",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind in a column.
    pub fn stored(name: &str) -> super::Result<Self> {
        let unknown = || StoreError::Damaged(format!("'{name}' is no kind of event"));
        Self::named(name).ok_or_else(unknown)
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
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the event.
    pub event: i64,
    /// Its claims when the attempt began: a failure counts only if nobody has claimed it since.
    pub claims: i64,
    /// What became of it.
    pub outcome: AttemptOutcome,
}

impl Attempt {
    /// The state of the event after the attempt, or `failed`, and the pause before the next one.
    pub const fn state(&self) -> (&'static str, Duration) {
        match self.outcome {
            AttemptOutcome::Delivered => ("delivered", Duration::ZERO),
            AttemptOutcome::Failed(pause) => ("failed", pause),
            AttemptOutcome::Postponed(pause) => ("waiting", pause),
            AttemptOutcome::Dead => ("dead", Duration::ZERO),
        }
    }
}

/// What waits for a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookStatus {
    /// The webhook.
    pub webhook: Webhook,
    /// The number of events that wait.
    pub waiting: u64,
    /// The time of the oldest one.
    pub oldest: Option<Timestamp>,
    /// The number of dead events that are kept.
    pub dead: u64,
    /// Whether the receiver has answered that it is gone: nothing is sent until a replay.
    pub is_gone: bool,
}

/// Which events are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The one with this random id.
    Message([u8; 16]),
    /// The dead ones, and at once those that wait after a failure.
    Dead,
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
}

/// For how long a webhook is known that no instance has named since.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);
/// For how long delivered and dead events are kept, and events for a webhook that is gone or forgotten.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The most events that one step of a replay changes.
pub const REPLAY_STEP: i64 = 1_000;
/// The most events that one step of trimming deletes.
pub const TRIM_STEP: i64 = 10_000;
/// The most keys that one step notes as expiring.
pub const EXPIRING_STEP: i64 = 500;
/// The most events that a claim looks at.
const LOOKED_AT: i64 = 100;

/// What differs between the databases.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// The store's time, once for a statement.
    pub now: &'static str,
    /// Follows the rows that a claim reads, so that several instances claim different ones.
    pub lock: &'static str,
    /// The attempts as rows `o(id, claims, state, pause)`, from the first parameters. A pause can be added to a
    /// time.
    pub attempts: &'static str,
}

impl Dialect {
    fn fill(&self, text: &str) -> String {
        text.replace("{now}", self.now)
            .replace("{lock}", self.lock)
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
                AND NOT EXISTS (SELECT 1 FROM webhooks WHERE name = $1 AND gone) LIMIT 1",
        )
    }

    /// Moves each due event behind the one that it waits for, so that a claim need not look at it again.
    pub fn queue(&self) -> String {
        let before = "SELECT p.due FROM webhook_events AS p
             WHERE p.webhook = $1 AND p.key_id = e.key_id AND p.state = 'waiting' AND p.id < e.id
             ORDER BY p.id DESC LIMIT 1";
        format!(
            "{} UPDATE webhook_events AS e SET due = ({before})
              WHERE e.id IN (SELECT id FROM looked_at) AND ({before}) > e.due",
            self.due()
        )
    }

    /// Claims events that are due and wait for no other. Parameter 2 is the most of them, parameter 3 the
    /// time until others may claim them.
    pub fn claim(&self) -> String {
        let claim = self.fill(
            ", free AS MATERIALIZED (
                 SELECT e.id FROM looked_at AS e
                  WHERE NOT EXISTS (SELECT 1 FROM webhook_events AS p
                                     WHERE p.webhook = $1 AND p.key_id = e.key_id
                                       AND p.state = 'waiting' AND p.id < e.id)
                    AND NOT EXISTS (SELECT 1 FROM webhooks WHERE name = $1 AND gone)
                  ORDER BY e.id LIMIT $2)
             UPDATE webhook_events SET due = {now} + $3, claims = claims + 1
              WHERE id IN (SELECT id FROM free)
             RETURNING id, message_id, key_id, type, time, at, claims, failures",
        );
        self.due() + &claim
    }

    /// Notes the ends of attempts.
    pub fn note(&self) -> String {
        self.fill(
            "UPDATE webhook_events AS e
                SET state = CASE o.state WHEN 'failed' THEN 'waiting' ELSE o.state END,
                    due = {now} + o.pause,
                    failures = e.failures + CASE WHEN o.state IN ('failed', 'dead') THEN 1 ELSE 0 END,
                    done_time = CASE WHEN o.state IN ('delivered', 'dead') THEN {now} END
               FROM {attempts}
              WHERE e.id = o.id AND e.state = 'waiting'
                AND (o.state = 'delivered' OR e.claims = o.claims)",
        )
    }

    /// Makes the events due that have waited for those of the attempts.
    pub fn release(&self) -> String {
        self.fill(
            "UPDATE webhook_events SET due = {now}
              WHERE state = 'waiting' AND claims = 0 AND due > {now}
                AND (webhook, key_id) IN (
                    SELECT e.webhook, e.key_id FROM webhook_events AS e, {attempts}
                     WHERE e.id = o.id AND e.state <> 'waiting')",
        )
    }

    /// One step of a replay. Parameter 1 is the webhook, parameter 2 the latest end, parameter 3 what the
    /// choice needs.
    pub fn replay(&self, events: &Replayed) -> String {
        let which = match events {
            Replayed::Message(_) => "message_id = $3 AND (done_time IS NULL OR done_time <= $2)",
            Replayed::Dead => {
                "(state = 'dead' AND done_time <= $2
                  OR state = 'waiting' AND failures > 0 AND due > {now})"
            }
            Replayed::Since(_) => "state <> 'waiting' AND done_time <= $2 AND time >= $3",
        };
        self.fill(&format!(
            "UPDATE webhook_events SET state = 'waiting', due = {{now}}, done_time = NULL, failures = 0
              WHERE id IN (SELECT id FROM webhook_events
                            WHERE webhook = $1 AND {which} ORDER BY id LIMIT {REPLAY_STEP})"
        ))
    }

    /// Deletes old events, in one step. Parameter 1 is how long they are kept.
    pub fn trim(&self) -> String {
        self.fill(&format!(
            "DELETE FROM webhook_events WHERE id IN (
                 SELECT id FROM webhook_events WHERE done_time < {{now}} - $1 ORDER BY done_time
                  LIMIT {TRIM_STEP})
              OR id IN (
                 SELECT id FROM webhook_events
                  WHERE state = 'waiting' AND time < {{now}} - $1
                    AND webhook NOT IN (SELECT name FROM webhooks WHERE NOT gone)
                  LIMIT {TRIM_STEP})"
        ))
    }

    /// Forgets webhooks that no instance has named for the time in parameter 1.
    pub fn forget(&self) -> String {
        self.fill("DELETE FROM webhooks WHERE seen_time < {now} - $1")
    }

    /// Forgets about which keys an event was written when they have expired for the time in parameter 1.
    pub fn forget_expired(&self) -> String {
        self.fill("DELETE FROM expiry_notices WHERE expire_time < {now} - $1")
    }
}

/// What waits for each webhook.
pub const STATUS: &str = "
    SELECT w.name, w.events, w.gone, coalesce(e.waiting, 0) AS waiting, e.oldest, coalesce(e.dead, 0) AS dead
      FROM webhooks AS w
      LEFT JOIN (SELECT webhook, count(*) FILTER (WHERE state = 'waiting') AS waiting,
                        min(time) FILTER (WHERE state = 'waiting') AS oldest,
                        count(*) FILTER (WHERE state = 'dead') AS dead
                   FROM webhook_events WHERE state <> 'delivered' GROUP BY webhook) AS e
        ON e.webhook = w.name
     ORDER BY w.name";

/// A call at the end of which a webhook sends again, even if its receiver was gone.
pub const REVIVE: &str = "UPDATE webhooks SET gone = false WHERE name = $1 AND gone";
/// Notes that the receiver of a webhook is gone.
pub const GONE: &str = "UPDATE webhooks SET gone = true WHERE name = $1";
