//! Accepts updates from a poll or a webhook, and puts them into the queue of their user.

use std::sync::Arc;
use std::time::Duration;

use keyward_ops::traces::{Sampling, root_span};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::events::{Event, Update};
use crate::handler::Handler;
use crate::in_flight::InFlight;
use crate::messages::Messages;
use crate::metrics::count;
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

/// The way of an update into the bot.
pub struct Intake {
    handler: Arc<Handler>,
    queues: Arc<UserQueues>,
    in_flight: Arc<InFlight>,
    replacing: Arc<Semaphore>,
    sampling: Sampling,
}

impl Intake {
    /// An intake that gives events to `handler`. The span names the bot in the log.
    pub fn new(handler: Handler, span: Span, sampling: Sampling) -> Self {
        Self {
            handler: Arc::new(handler),
            queues: UserQueues::new(MAX_CONCURRENT, span),
            in_flight: InFlight::new(),
            replacing: Arc::new(Semaphore::new(MAX_REPLACING)),
            sampling,
        }
    }

    /// The messages of its users.
    pub fn messages(&self) -> &Messages {
        &self.handler.messages
    }

    /// The updates in flight.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Accepts an update, unless it is already in flight. Returns its id.
    pub fn accept(&self, update: Update) -> u32 {
        let id = update.update_id;
        let Some(guard) = self.in_flight.begin(id) else {
            return id;
        };
        let Some(event) = Event::of(&update, self.messages().telegram.username()) else {
            self.handler
                .metrics
                .update("ignored", "ignored", Duration::ZERO);
            return id;
        };
        let (user, kind) = (event.person.id, event.request.kind());
        if self.queues.waiting(user) >= MAX_WAITING {
            count(&self.handler.metrics.limited, "limit", "waiting");
            self.handler.metrics.update(kind, "flood", Duration::ZERO);
            return id;
        }
        let handler = Arc::clone(&self.handler);
        let sampling = self.sampling;
        let handle = async move {
            let span = root_span(kind, sampling.traces_root());
            handler.handle(event).instrument(span).await;
            // From here the update may be confirmed.
            drop(guard);
        };
        self.queues.push(user, Box::pin(handle));
        id
    }

    /// Replaces messages when they are due, until `stop`.
    pub async fn sweep(&self, stop: CancellationToken) {
        let pause = || stop.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL));
        while pause().await.is_some() {
            let due = self.messages().users_due().into_iter();
            // A busy user has another turn at the next sweep.
            for user in due.filter(|user| !self.queues.is_busy(*user)) {
                let Ok(permit) = Arc::clone(&self.replacing).try_acquire_owned() else {
                    break;
                };
                let messages = Arc::clone(&self.handler.messages);
                let replace = async move {
                    messages.replace_due(user, None).await;
                    drop(permit);
                };
                self.queues.push(user, Box::pin(replace));
            }
        }
    }

    /// Waits until no job runs.
    pub async fn wait_idle(&self) {
        while !self.queues.is_idle() {
            tokio::time::sleep(IDLE_INTERVAL).await;
        }
    }
}
