//! Where updates come in, from a poll or a webhook, and are handed to the lane of their user.

use std::sync::Arc;
use std::time::Duration;

use teloxide_core::types::Update;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::Event;
use crate::handler::Handler;
use crate::in_flight::{InFlight, Running};
use crate::lanes::Lanes;

/// Users who are served at the same time.
const AT_ONCE: usize = 64;
/// Updates of one user that may wait. What is beyond is a flood: it is dropped, and confirmed.
const MAX_WAITING: usize = 50;
/// How often to look for messages that are to be replaced, and for how many users at the same time.
const SWEEP: Duration = Duration::from_millis(500);
const SETTLING: usize = 8;
/// How often to look whether all is done.
const LOOK: Duration = Duration::from_millis(10);

enum Job {
    Event(Event, Running),
    Settle(u64, OwnedSemaphorePermit),
}

/// Takes updates on.
pub struct Desk {
    handler: Arc<Handler>,
    lanes: Arc<Lanes<Job>>,
    in_flight: Arc<InFlight>,
    settling: Arc<Semaphore>,
}

impl Desk {
    /// The desk of `handler`.
    pub fn new(handler: Arc<Handler>) -> Arc<Self> {
        let working = Arc::clone(&handler);
        let run = move |job| {
            let handler = Arc::clone(&working);
            let work: futures_util::future::BoxFuture<'static, ()> = Box::pin(async move {
                match job {
                    Job::Event(event, running) => {
                        handler.handle(event).await;
                        // Only now it may be confirmed.
                        drop(running);
                    }
                    Job::Settle(user, permit) => {
                        handler.board.settle(user, None).await;
                        drop(permit);
                    }
                }
            });
            work
        };
        Arc::new(Self {
            handler,
            lanes: Lanes::new(AT_ONCE, Box::new(run)),
            in_flight: InFlight::new(),
            settling: Arc::new(Semaphore::new(SETTLING)),
        })
    }

    /// What is under way.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Who handles.
    pub fn handler(&self) -> &Handler {
        &self.handler
    }

    /// Takes an update on, unless it is under way already; its id.
    pub fn accept(&self, update: Update) -> u32 {
        let id = update.id.0;
        let Some(running) = self.in_flight.begin(id) else {
            return id;
        };
        let event = Event::of(update, self.handler.board.telegram.username());
        let drop_as = |outcome| {
            self.handler
                .metrics
                .update(event.kind(), outcome, Duration::ZERO);
            id
        };
        let Some(person) = event.person() else {
            return drop_as("ignored");
        };
        if self.lanes.waiting(person.id) >= MAX_WAITING {
            self.handler.metrics.limited("waiting");
            return drop_as("flood");
        }
        self.lanes.push(person.id, Job::Event(event, running));
        id
    }

    /// Replaces messages when their time comes, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(SWEEP))
            .await
            .is_some()
        {
            for user in self.handler.board.shown.users_due(Instant::now()) {
                // Those who ask come first, however many messages are due.
                let Ok(permit) = Arc::clone(&self.settling).try_acquire_owned() else {
                    break;
                };
                // Behind what the user does now; a busy lane is asked again.
                self.lanes.push_if_idle(user, || Job::Settle(user, permit));
            }
        }
    }

    /// Waits until nothing is being done.
    pub async fn idle(&self) {
        while !self.lanes.is_idle() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Brings the gauges up to date.
    pub fn observe(&self) {
        let count = i64::try_from(self.in_flight.count()).unwrap_or(i64::MAX);
        self.handler.metrics.in_flight.set(count);
    }
}
