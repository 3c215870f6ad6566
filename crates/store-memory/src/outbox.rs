//! The events for webhooks.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::server::{Transaction, Transport};
use keyward_core::key::{KeyId, KeyRecord, Timestamp};
use keyward_store::webhooks::{EXPIRING_STEP, FORGOTTEN_AFTER, KEPT, REPLAY_STEP, TRIM_STEP};
use keyward_store::{
    Attempt, AttemptOutcome, ClaimedEvent, EventKind, Outbox, Replay, Replayed, Result, Webhook,
    WebhookStatus,
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

    async fn note_gone(&self, webhook: &str) -> Result<()> {
        let webhook = webhook.to_owned();
        let work = move |tx: &mut Transaction<'_>| {
            let row = tx.database.outbox.webhooks.get_mut(&webhook);
            row.into_iter().for_each(|row| row.is_gone = true);
            Ok(())
        };
        self.write("note_gone", work).await
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
                    waiting: waiting.clone().count() as u64,
                    oldest: waiting.map(|event| event.event.time).min(),
                    dead: dead.count() as u64,
                    is_gone: row.is_gone,
                }
            });
            Ok(status.collect())
        };
        self.read("webhook_status", read).await
    }

    async fn replay_events(&self, replay: &Replay) -> Result<u64> {
        let replay = replay.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.replay_events(&replay));
        self.write("replay_events", work).await
    }

    async fn note_expiring(&self, notice: Duration) -> Result<u64> {
        let work = move |tx: &mut Transaction<'_>| Ok(tx.note_expiring(notice));
        self.write("note_expiring", work).await
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let work = |tx: &mut Transaction<'_>| {
            let (outbox, now) = (&mut tx.database.outbox, tx.now);
            let OutboxTables {
                webhooks, events, ..
            } = outbox;
            webhooks.retain(|_, row| now.since(row.seen) <= FORGOTTEN_AFTER);
            let is_live =
                |event: &EventRow| webhooks.get(&event.webhook).is_some_and(|row| !row.is_gone);
            let mut left = TRIM_STEP;
            events.retain(|event| {
                let since = match event.done {
                    Some((time, _)) => time,
                    None if is_live(event) => return true,
                    None => event.event.time,
                };
                let is_kept = now.since(since) <= KEPT || left == 0;
                left -= i64::from(!is_kept);
                is_kept
            });
            outbox.notices.retain(|_, end| now.since(*end) <= KEPT);
            Ok((TRIM_STEP - left).unsigned_abs())
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
        let events = &mut self.database.outbox.events;
        let mut waiting = events.iter_mut().filter(|row| row.waits());
        let Some(row) = waiting.find(|row| row.event.id == attempt.event) else {
            return;
        };
        let outcome = attempt.outcome;
        if outcome != AttemptOutcome::Delivered && row.event.claims != attempt.claims {
            return;
        }
        if let AttemptOutcome::Failed(_) | AttemptOutcome::Dead = outcome {
            row.event.failures += 1;
        }
        match outcome {
            AttemptOutcome::Failed(pause) | AttemptOutcome::Postponed(pause) => {
                row.due = now.plus(pause);
            }
            AttemptOutcome::Delivered | AttemptOutcome::Dead => row.done = Some((now, outcome)),
        }
    }

    fn replay_events(&mut self, replay: &Replay) -> u64 {
        let now = self.now;
        let OutboxTables {
            webhooks, events, ..
        } = &mut self.database.outbox;
        let row = webhooks.get_mut(&replay.webhook);
        row.into_iter().for_each(|row| row.is_gone = false);
        let is_chosen = |row: &EventRow| {
            let by = row.done.is_none_or(|(time, _)| time <= replay.until);
            let waits = row.waits() && row.event.failures > 0 && row.due > now;
            by && match replay.events {
                Replayed::Message(id) => row.event.message == id,
                Replayed::Dead => row.is_dead() || waits,
                Replayed::Since(time) => !row.waits() && row.event.time >= time,
            }
        };
        let events = events.iter_mut();
        let chosen = events.filter(|row| row.webhook == replay.webhook && is_chosen(row));
        let step = usize::try_from(REPLAY_STEP).unwrap_or(usize::MAX);
        let replayed = chosen.take(step).map(|row| {
            (row.due, row.done) = (now, None);
            row.event.failures = 0;
        });
        replayed.count() as u64
    }

    fn note_expiring(&mut self, notice: Duration) -> u64 {
        let (now, end) = (self.now, self.now.plus(notice));
        let notices = &self.database.outbox.notices;
        let keys = self.database.keys.values().map(|row| &row.record);
        let expiring = keys.filter_map(|key| {
            let expiry = key.expire_time?;
            let is_new = notices.get(&key.id) != Some(&expiry);
            let expires = now < expiry && expiry <= end && key.revoke_time.is_none();
            (expires && is_new).then_some((key.id, expiry))
        });
        let step = usize::try_from(EXPIRING_STEP).unwrap_or(usize::MAX);
        let expiring: Vec<_> = expiring.take(step).collect();
        for (id, expiry) in &expiring {
            self.tell(EventKind::Expiring, *id, Some(*expiry));
            self.database.outbox.notices.insert(*id, *expiry);
        }
        expiring.len() as u64
    }
}
