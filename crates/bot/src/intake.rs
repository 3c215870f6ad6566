//! Accepts updates from a poll or a webhook, and puts them into the queue of their user.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use teloxide_core::types::Update;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::events::Event;
use crate::handler::Handler;
use crate::in_flight::{InFlight, InFlightGuard};
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::telegram::Telegram;
use crate::user_queues::UserQueues;

/// Users served concurrently.
const MAX_CONCURRENT: usize = 64;
/// Updates of one user that may wait. More are a flood: they are dropped and confirmed.
const MAX_WAITING: usize = 50;
/// How often to look for messages to replace.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// Users whose messages are replaced concurrently. Users who send updates come first.
const MAX_REPLACING: usize = 8;
/// How often to check for the end of all jobs at a stop.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);

enum Job {
    Handle(Event, InFlightGuard),
    ReplaceDue(u64, OwnedSemaphorePermit),
}

/// The way of an update into the bot.
pub struct Intake {
    telegram: Arc<Telegram>,
    messages: Arc<Messages>,
    metrics: Arc<Metrics>,
    queues: Arc<UserQueues<Job>>,
    in_flight: Arc<InFlight>,
    replacing: Arc<Semaphore>,
}

impl Intake {
    /// An intake that gives events to `handler`.
    pub fn new(
        handler: Handler,
        telegram: Arc<Telegram>,
        messages: Arc<Messages>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let handler = Arc::new(handler);
        let for_jobs = Arc::clone(&messages);
        let run = move |job| -> BoxFuture<'static, ()> {
            let (handler, messages) = (Arc::clone(&handler), Arc::clone(&for_jobs));
            Box::pin(async move {
                match job {
                    Job::Handle(event, guard) => {
                        handler.handle(event).await;
                        // From here the update may be confirmed.
                        drop(guard);
                    }
                    Job::ReplaceDue(user, permit) => {
                        messages.replace_due(user, None).await;
                        drop(permit);
                    }
                }
            })
        };
        Self {
            telegram,
            messages,
            metrics,
            queues: UserQueues::new(MAX_CONCURRENT, Box::new(run)),
            in_flight: InFlight::new(),
            replacing: Arc::new(Semaphore::new(MAX_REPLACING)),
        }
    }

    /// The updates in flight.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Accepts an update, unless it is already in flight. Returns its id.
    pub fn accept(&self, update: Update) -> u32 {
        let id = update.id.0;
        let Some(guard) = self.in_flight.begin(id) else {
            return id;
        };
        let event = Event::of(update, self.telegram.username());
        let dropped = match event.person() {
            None => "ignored",
            Some(person) if self.queues.waiting(person.id) >= MAX_WAITING => {
                self.metrics.limited("waiting");
                "flood"
            }
            Some(person) => {
                self.queues.push(person.id, Job::Handle(event, guard));
                return id;
            }
        };
        self.metrics.update(event.kind(), dropped, Duration::ZERO);
        id
    }

    /// Replaces messages when they are due, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL));
        while pause().await.is_some() {
            for user in self.messages.users_due() {
                let Ok(permit) = Arc::clone(&self.replacing).try_acquire_owned() else {
                    break;
                };
                // A busy user has another turn at the next sweep.
                self.queues
                    .push_if_idle(user, || Job::ReplaceDue(user, permit));
            }
        }
    }

    /// Waits until no job runs.
    pub async fn wait_idle(&self) {
        while !self.queues.is_idle() {
            tokio::time::sleep(IDLE_INTERVAL).await;
        }
    }

    /// Updates the gauge of the updates in flight.
    pub fn observe(&self) {
        let count = i64::try_from(self.in_flight.count()).unwrap_or(i64::MAX);
        self.metrics.in_flight.set(count);
    }
}
