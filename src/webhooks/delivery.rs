//! Claims the events of one webhook and sends them.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Answer, Sender, Webhooks, message, schedule};
use keyward_core::key::{KeyId, KeyUse};
use keyward_guard::LogLimit;
use keyward_ops::{Metrics, WebhookMetrics};
use keyward_store::{
    Attempt, AttemptOutcome, ClaimedEvent, EventKind, KeyTarget, Result, Store, StoreError,
};

/// The most events that are sent at the same time.
const IN_FLIGHT: usize = 16;
/// How often the store is asked for events.
const POLL: Duration = Duration::from_secs(1);
/// For how much longer than an attempt its event is claimed.
const LEASE_RESERVE: Duration = Duration::from_secs(10);
/// How long a stop waits for the answers to what was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How often a failure is logged.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// Sends the events of one webhook.
pub(super) struct Delivery {
    webhooks: Arc<Webhooks>,
    sender: Arc<Sender>,
    store: Arc<dyn Store>,
    metrics: WebhookMetrics,
    log: LogLimit,
}

impl Delivery {
    pub(super) fn new(
        webhooks: &Arc<Webhooks>,
        sender: &Arc<Sender>,
        store: &Arc<dyn Store>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            webhooks: Arc::clone(webhooks),
            sender: Arc::clone(sender),
            store: Arc::clone(store),
            metrics: metrics.webhooks.webhook(&sender.endpoint().name),
            log: LogLimit::every(LOG_PAUSE),
        })
    }

    /// Sends events until `stop`. Those that were sent and whose answers are not noted are sent again.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut polls = interval(POLL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Each is a task: it may hold a connection to the store, and must go on while this one waits for another.
        let mut flights = JoinSet::new();
        let mut ended = Vec::new();
        let mut may_have_more = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(first) = flights.join_next() => {
                    ended.push(attempted(first));
                    while let Some(next) = flights.try_join_next() {
                        ended.push(attempted(next));
                    }
                }
                _ = polls.tick() => may_have_more = true,
            }
            self.note(&mut ended).await;
            let free = IN_FLIGHT - flights.len();
            // Several at once: a claim is a transaction.
            if may_have_more && free >= IN_FLIGHT / 2 {
                let claimed = self.claim(free).await.unwrap_or_default();
                may_have_more = claimed.len() == free;
                for event in claimed {
                    flights.spawn(Arc::clone(&self).attempt(event));
                }
            }
        }
        let rest = async {
            while let Some(next) = flights.join_next().await {
                ended.push(attempted(next));
            }
        };
        let _ = timeout(LAST_ANSWERS, rest).await;
        self.note(&mut ended).await;
    }

    async fn claim(&self, most: usize) -> Result<Vec<ClaimedEvent>> {
        let lease = self.sender.timeout() + LEASE_RESERVE;
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let name = &self.sender.endpoint().name;
        self.store.claim_events(name, most, lease).await
    }

    /// Notes what has ended. After a failure of the store it is noted with the next.
    async fn note(&self, ended: &mut Vec<Attempt>) {
        // The store's calls are logged where they fail.
        if !ended.is_empty() && self.store.note_attempts(ended).await.is_ok() {
            ended.clear();
        }
    }

    async fn attempt(self: Arc<Self>, event: ClaimedEvent) -> Attempt {
        let answer = match self.body(&event).await {
            Ok(body) => {
                let id = KeyId::from_bytes(event.message);
                self.sender.send(id, body).await
            }
            Err(StoreError::Damaged(reason)) => Answer::None(reason),
            // The receiver is not to blame, so this is no attempt.
            Err(_) => return event.ended(AttemptOutcome::Postponed(POLL)),
        };
        let outcome = match &answer {
            Answer::Status(status, _) if status.is_success() => AttemptOutcome::Delivered,
            Answer::Status(StatusCode::GONE, _) => AttemptOutcome::Gone,
            Answer::Status(_, wanted) => self.failed(&event, *wanted),
            Answer::None(_) => self.failed(&event, None),
        };
        self.report(&event, &answer, outcome);
        event.ended(outcome)
    }

    fn failed(&self, event: &ClaimedEvent, wanted: Option<Duration>) -> AttemptOutcome {
        let pause = schedule::pause(event.failures, wanted, &*self.webhooks.entropy);
        pause.map_or(AttemptOutcome::Dead, AttemptOutcome::Failed)
    }

    /// The body of an event, with the present account and name of its key.
    async fn body(&self, event: &ClaimedEvent) -> Result<String> {
        let key = self.store.get_key(&KeyTarget::Id(event.key)).await?;
        let mut usage = KeyUse::default();
        if event.kind == EventKind::Refused {
            let found = self.store.uses_of(&[event.key]).await?;
            usage = found.first().map_or(usage, |(_, usage)| *usage);
        }
        let key = key.map(|key| key.record);
        Ok(message::body(event, key.as_ref(), &usage))
    }

    fn report(&self, event: &ClaimedEvent, answer: &Answer, outcome: AttemptOutcome) {
        let webhook = self.sender.endpoint().name.as_str();
        let event_id = KeyId::from_bytes(event.message);
        match outcome {
            AttemptOutcome::Delivered => drop(self.metrics.delivered.inc()),
            AttemptOutcome::Postponed(_) => {}
            AttemptOutcome::Gone => {
                self.metrics.failed.inc();
                tracing::error!(
                    webhook,
                    "the receiver is gone (status 410): nothing is sent until `keyward webhook replay {webhook}`"
                );
            }
            AttemptOutcome::Failed(pause) => {
                self.metrics.failed.inc();
                if self.log.is_due() {
                    tracing::warn!(
                        webhook, %event_id, %answer,
                        "cannot send an event; the next attempt is in {pause:.0?}"
                    );
                }
            }
            AttemptOutcome::Dead => {
                self.metrics.died.inc();
                tracing::error!(
                    webhook, %event_id, %answer,
                    "an event is dead after its last attempt: repair the receiver, then run `keyward webhook \
                     replay {webhook}`"
                );
            }
        }
    }
}

/// The result of an attempt's task. A panic in it goes on here.
fn attempted(ended: std::result::Result<Attempt, JoinError>) -> Attempt {
    ended.unwrap_or_else(|error| resume_unwind(error.into_panic()))
}
