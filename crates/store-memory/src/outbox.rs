//! The events for webhooks.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::server::{Transaction, Transport};
use keyward_core::key::{KeyId, KeyRecord, Timestamp};
use keyward_store::webhooks::{
    COUNTED, EXPIRING_LOOKED_AT, EXPIRING_STEP, FORGOTTEN_AFTER, KEPT, REPLAY_STEP, TRIM_STEP,
};
use keyward_store::{
    Attempt, AttemptOutcome, ClaimedEvent, EventKind, EventPlace, ExpiryPlace, ExpiryStep, Outbox,
    Replay, Replayed, Result, Webhook, WebhookStatus,
};

const DAY: i64 = 24 * 3_600 * 1_000_000;

/// What is kept for webhooks.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutboxTables {
    webhooks: BTreeMap<String, WebhookRow>,
    /// In the order of their numbers.
    events: Vec<EventRow>,
    last_id: i64,
    notices: BTreeMap<KeyId, Timestamp>,
}

#[derive(Clone, Debug)]
struct WebhookRow {
    webhook: Webhook,
    seen: Timestamp,
    is_gone: bool,
}

#[derive(Clone, Debug)]
struct EventRow {
    event: ClaimedEvent,
    webhook: String,
    due: Timestamp,
    /// When it was delivered, or died. `None` while it waits.
    done: Option<(Timestamp, AttemptOutcome)>,
}

impl EventRow {
    const fn waits(&self) -> bool {
        self.done.is_none()
    }

    const fn place(&self) -> EventPlace {
        (self.event.time, self.event.id)
    }

    fn is_dead(&self) -> bool {
        self.done
            .is_some_and(|(_, outcome)| outcome == AttemptOutcome::Dead)
    }
}

#[async_trait]
impl<T: Transport> Outbox for MemoryStore<T> {
    async fn name_webhooks(&self, webhooks: &[Webhook]) -> Result<()> {
        let webhooks = webhooks.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            for webhook in webhooks {
                let rows = &mut tx.database.outbox.webhooks;
                let is_gone = rows.get(&webhook.name).is_some_and(|row| row.is_gone);
                let row = WebhookRow {
                    webhook: webhook.clone(),
                    seen: tx.now,
                    is_gone,
                };
                rows.insert(webhook.name, row);
            }
            Ok(())
        };
        self.write("name_webhooks", work).await
    }

    async fn claim_events(
        &self,
        webhook: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedEvent>> {
        let (webhook, limit) = (webhook.to_owned(), usize::try_from(limit));
        let limit = limit.unwrap_or(usize::MAX);
        let work = move |tx: &mut Transaction<'_>| Ok(tx.claim_events(&webhook, limit, lease));
        self.write("claim_events", work).await
    }

    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()> {
        let attempts = attempts.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            attempts
                .iter()
                .for_each(|attempt| tx.note_attempt(*attempt));
            Ok(())
        };
        self.write("note_attempts", work).await
    }

    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>> {
        let read = move |tx: &mut Transaction<'_>| {
            let OutboxTables {
                webhooks, events, ..
            } = &tx.database.outbox;
            let status = webhooks.values().map(|row| {
                let of = |event: &&EventRow| event.webhook == row.webhook.name;
                let waiting = events.iter().filter(of).filter(|event| event.waits());
                let dead = events.iter().filter(of).filter(|event| event.is_dead());
                WebhookStatus {
                    webhook: row.webhook.clone(),
                    waiting: COUNTED.min(waiting.clone().count() as u64),
                    oldest: waiting.map(|event| event.event.time).min(),
                    dead: COUNTED.min(dead.count() as u64),
                    is_gone: row.is_gone,
                }
            });
            Ok(status.collect())
        };
        self.read("webhook_status", read).await
    }

    async fn replay_events(&self, replay: &Replay) -> Result<Vec<EventPlace>> {
        let replay = replay.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.replay_events(&replay));
        self.write("replay_events", work).await
    }

    async fn note_expiring(&self, notice: Duration, place: ExpiryPlace) -> Result<ExpiryStep> {
        let work = move |tx: &mut Transaction<'_>| Ok(tx.note_expiring(notice, place));
        self.write("note_expiring", work).await
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let work = |tx: &mut Transaction<'_>| {
            let (outbox, now) = (&mut tx.database.outbox, tx.now);
            let OutboxTables {
                webhooks,
                events,
                notices,
                ..
            } = outbox;
            let mut steps = [TRIM_STEP; 4];
            let mut take = |step: usize, is_old: bool| {
                let is_taken = is_old && steps[step] > 0;
                steps[step] -= i64::from(is_taken);
                is_taken
            };
            webhooks.retain(|_, row| !take(0, now.since(row.seen) > FORGOTTEN_AFTER));
            notices.retain(|_, end| !take(1, now.since(*end) > KEPT));
            events.retain(|row| !take(2, row.done.is_some_and(|(time, _)| now.since(time) > KEPT)));
            for row in events.iter_mut().filter(|row| row.waits()) {
                if take(3, now.since(row.event.time) > KEPT) {
                    row.done = Some((now, AttemptOutcome::Dead));
                }
            }
            Ok(steps
                .iter()
                .map(|left| (TRIM_STEP - left).unsigned_abs())
                .sum())
        };
        self.write("trim_outbox", work).await
    }
}

impl Transaction<'_> {
    /// Writes an event for each webhook that gets its kind.
    pub(crate) fn tell(&mut self, kind: EventKind, key: KeyId, at: Option<Timestamp>) {
        let (now, entropy) = (self.now, self.entropy);
        let outbox = &mut self.database.outbox;
        let rows = outbox.webhooks.values();
        for row in rows.filter(|row| row.webhook.events.contains(&kind)) {
            let mut message = [0; 16];
            entropy.fill(&mut message);
            outbox.last_id += 1;
            outbox.events.push(EventRow {
                event: ClaimedEvent {
                    id: outbox.last_id,
                    message,
                    key,
                    kind,
                    time: now,
                    at,
                    claims: 0,
                    failures: 0,
                },
                webhook: row.webhook.name.clone(),
                due: now,
                done: None,
            });
        }
    }

    /// Tells that the stored key gets the end in `record`, if that is a new one.
    pub(crate) fn tell_end(&mut self, record: &KeyRecord) {
        let before = self.database.key(record.id);
        let before = before.and_then(|key| key.revoke_time);
        if record.revoke_time.is_some() && record.revoke_time != before {
            self.tell(EventKind::Revoked, record.id, record.revoke_time);
        }
    }

    /// Tells the first refusal of a key on a day.
    pub(crate) fn tell_refusal(
        &mut self,
        key: KeyId,
        before: Option<Timestamp>,
        after: Option<Timestamp>,
    ) {
        let day = |time: Option<Timestamp>| time.map(|time| time.as_micros().div_euclid(DAY));
        if day(after) > day(before) {
            self.tell(EventKind::Refused, key, after);
        }
    }

    fn claim_events(&mut self, webhook: &str, limit: usize, lease: Duration) -> Vec<ClaimedEvent> {
        let (outbox, now) = (&mut self.database.outbox, self.now);
        if outbox.webhooks.get(webhook).is_some_and(|row| row.is_gone) {
            return Vec::new();
        }
        let (mut waits, mut claimed) = (Vec::new(), Vec::new());
        let events = outbox.events.iter_mut();
        for row in events.filter(|row| row.webhook == webhook && row.waits()) {
            let is_first = !waits.contains(&row.event.key);
            waits.push(row.event.key);
            if is_first && row.due <= now && claimed.len() < limit {
                row.due = now.plus(lease);
                row.event.claims += 1;
                claimed.push(row.event.clone());
            }
        }
        claimed
    }

    fn note_attempt(&mut self, attempt: Attempt) {
        let now = self.now;
        let OutboxTables {
            webhooks, events, ..
        } = &mut self.database.outbox;
        let mut waiting = events.iter_mut().filter(|row| row.waits());
        let Some(row) = waiting.find(|row| row.event.id == attempt.event) else {
            return;
        };
        let outcome = attempt.outcome;
        if outcome != AttemptOutcome::Delivered && row.event.claims != attempt.claims {
            return;
        }
        if let AttemptOutcome::Failed(_) | AttemptOutcome::Dead = outcome {
            row.event.failures = attempt.failures + 1;
        }
        match outcome {
            AttemptOutcome::Failed(pause) | AttemptOutcome::Postponed(pause) => {
                row.due = now.plus(pause);
            }
            AttemptOutcome::Gone => {
                row.due = now;
                let webhook = webhooks.get_mut(&row.webhook);
                webhook.into_iter().for_each(|row| row.is_gone = true);
            }
            AttemptOutcome::Delivered | AttemptOutcome::Dead => row.done = Some((now, outcome)),
        }
    }

    fn replay_events(&mut self, replay: &Replay) -> Vec<EventPlace> {
        let now = self.now;
        let OutboxTables {
            webhooks, events, ..
        } = &mut self.database.outbox;
        let row = webhooks.get_mut(&replay.webhook);
        row.into_iter().for_each(|row| row.is_gone = false);
        let is_chosen = |row: &EventRow| {
            row.done.is_none_or(|(time, _)| time <= replay.until)
                && row.place() > replay.start()
                && match replay.events {
                    Replayed::Message(id) => row.event.message == id,
                    Replayed::Dead => row.is_dead(),
                    Replayed::Failing => row.waits() && row.event.failures > 0 && row.due > now,
                    Replayed::Since(_) => !row.waits(),
                }
        };
        let events = events.iter_mut();
        let chosen = events.filter(|row| row.webhook == replay.webhook && is_chosen(row));
        let mut chosen: Vec<_> = chosen.collect();
        chosen.sort_unstable_by_key(|row| row.place());
        let step = usize::try_from(REPLAY_STEP).unwrap_or(usize::MAX);
        let replayed = chosen.into_iter().take(step).map(|row| {
            (row.due, row.done) = (now, None);
            row.event.failures = 0;
            row.event.claims += 1;
            row.place()
        });
        replayed.collect()
    }

    fn note_expiring(&mut self, notice: Duration, place: ExpiryPlace) -> ExpiryStep {
        let (now, end) = (self.now, self.now.plus(notice));
        let OutboxTables {
            webhooks, notices, ..
        } = &self.database.outbox;
        let keys = self.database.keys.values().map(|row| &row.record);
        let expiring = keys.filter_map(|key| {
            let expiry = key.expire_time.filter(|_| key.revoke_time.is_none())?;
            let is_soon = now < expiry && expiry <= end && (expiry, key.id) > place;
            is_soon.then_some((expiry, key.id))
        });
        let mut looked_at: Vec<_> = expiring.collect();
        looked_at.sort_unstable();
        let size = |step| usize::try_from(step).unwrap_or(usize::MAX);
        looked_at.truncate(size(EXPIRING_LOOKED_AT));
        let last = looked_at.get(size(EXPIRING_LOOKED_AT) - 1).copied();
        let mut webhooks = webhooks.values();
        if !webhooks.any(|row| row.webhook.events.contains(&EventKind::Expiring)) {
            return ExpiryStep::new(0, place, last);
        }
        looked_at.retain(|(expiry, id)| notices.get(id) != Some(expiry));
        looked_at.truncate(size(EXPIRING_STEP));
        for (expiry, id) in &looked_at {
            self.tell(EventKind::Expiring, *id, Some(*expiry));
            self.database.outbox.notices.insert(*id, *expiry);
        }
        ExpiryStep::new(looked_at.len() as u64, place, last)
    }
}
