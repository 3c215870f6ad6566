//! The stream that keeps a near-cache fresh: it polls one instance at a time. Each step has its place: a
//! poll's time is read before it is sent, an answer is taken before the next poll acknowledges it, and
//! freshness ends before the instance hears of it.

use std::time::Duration;

use keyward_core::fence::{Epoch, NearAnswer, Now};
use keyward_core::key::{BootTime, Clock as _, KeyId};
use keyward_proto::v1;
use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::service::interceptor::InterceptedService;

use super::entries::{epoch, timestamp};
use super::{Shared, State};
use crate::Error;
use crate::call::pause;

/// An instance that does not answer a poll for so long is given up. It answers at least once a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// The limit for opening a stream.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// The limit for telling an instance that this near-cache is off, and for all of that at the end.
const OFF_LIMIT: Duration = Duration::from_secs(2);
/// The longest pause before the second attempt; it doubles with each attempt.
const PAUSE: Duration = Duration::from_millis(50);
/// A near-cache that was not fresh for so long starts with nothing.
const FORGETFUL: Duration = Duration::from_secs(60);

/// The most keys in a poll.
const MOST_REPORTED: usize = 1_000;

type Polls = mpsc::Sender<v1::WatchInvalidationsRequest>;
type Answers = Streaming<v1::WatchInvalidationsResponse>;

/// Why a stream has ended.
enum Ending {
    /// The instance asked for it.
    Off,
    /// The log is another one, or the answer was unreadable.
    OtherLog,
    /// The near-cache is closed.
    Closed,
}

/// Keeps the near-cache fresh until it is closed.
pub(super) async fn run(shared: &Shared) {
    let mut watch = Watch {
        shared,
        last: 0,
        fresh_at: shared.clock.boot(),
    };
    let mut attempt = 0;
    let mut tried = Vec::new();
    while !shared.closing.is_cancelled() {
        let balance = &shared.client.caller().balance;
        let index = balance.pick(&tried, Instant::now());
        let before = watch.fresh_at;
        let late = async {
            shared.closing.cancelled().await;
            tokio::time::sleep(OFF_LIMIT).await;
        };
        let outcome = tokio::select! {
            outcome = watch.stream(index) => outcome,
            () = late => break,
        };
        // The instance could make it fresh.
        if watch.fresh_at > before {
            attempt = 0;
            tried.clear();
        }
        let retry_after = match outcome {
            Ok(Ending::Closed) => break,
            Ok(Ending::OtherLog) => None,
            Ok(Ending::Off) => {
                tried.push(index);
                let url = &balance.endpoints()[index].url;
                let why = format!("{url}: the instance cannot make near-caches fresh now");
                *shared.trouble.lock() = Some(Error::unavailable(why));
                None
            }
            Err(error) => {
                tracing::debug!(%error, "a near-cache's stream ended; it is opened again");
                tried.push(index);
                let retry_after = error.retry_after;
                *shared.trouble.lock() = Some(error);
                retry_after
            }
        };
        attempt += 1;
        let wait = if balance.has_untried(&tried) {
            Duration::ZERO
        } else {
            tried.clear();
            retry_after.unwrap_or_default()
        };
        tokio::select! {
            () = tokio::time::sleep(wait + pause(PAUSE, attempt.min(6))) => {}
            () = shared.closing.cancelled() => {}
        }
    }
    shared.state.load().fence.stop_being_fresh();
}

struct Watch<'s> {
    shared: &'s Shared,
    /// The number of the last poll. A number is never used twice in a process.
    last: u64,
    /// When the near-cache was last known to be fresh.
    fresh_at: BootTime,
}

impl Watch<'_> {
    /// Opens a stream to an instance, and polls it until the stream ends.
    async fn stream(&mut self, index: usize) -> Result<Ending, Error> {
        let caller = self.shared.client.caller();
        let endpoint = &caller.balance.endpoints()[index];
        // The answers to polls say nothing of calls, which the instance may leave without an answer meanwhile. So
        // only the first one counts, and the end of the stream counts from the last one.
        let mut last_news = Instant::now();
        let mut is_first = true;
        let opened = timeout(OPEN_LIMIT, self.open(index)).await;
        let failed = |last_news, error: Error| {
            match error.is_endpoint_failure() {
                true => endpoint.failed(last_news, Instant::now()),
                false => endpoint.answered(Instant::now()),
            }
            error
        };
        let opened = opened.unwrap_or_else(|_| Err(Error::no_response(&endpoint.url, OPEN_LIMIT)));
        let (polls, mut answers) = opened.map_err(|error| failed(last_news, error))?;
        self.forget_after_a_while();
        loop {
            let failed = |error| failed(last_news, error);
            if self.shared.closing.is_cancelled() {
                self.turn_off(polls, answers).await;
                return Ok(Ending::Closed);
            }
            let (sent_at, poll) = self.poll();
            let number = poll.poll;
            let gone = || Error::unavailable(format!("{}: the stream has ended", endpoint.url));
            polls.send(poll).await.map_err(|_| failed(gone()))?;
            let answer = tokio::select! {
                biased;
                () = self.shared.closing.cancelled() => {
                    self.turn_off(polls, answers).await;
                    return Ok(Ending::Closed);
                }
                answer = timeout(ANSWER_LIMIT, answers.message()) => answer,
            };
            let answer = match answer {
                Ok(Ok(Some(answer))) if answer.poll == number => answer,
                Ok(Ok(_)) => return Err(failed(gone())),
                Ok(Err(status)) => {
                    return Err(failed(Error::from_status(
                        &status,
                        &endpoint.url,
                        ANSWER_LIMIT,
                    )));
                }
                Err(_) => return Err(failed(Error::no_response(&endpoint.url, ANSWER_LIMIT))),
            };
            last_news = Instant::now();
            if std::mem::take(&mut is_first) {
                endpoint.answered(last_news);
            }
            let ending = match answer.off {
                true => Ending::Off,
                false if self.take(sent_at, answer) => continue,
                false => Ending::OtherLog,
            };
            self.turn_off(polls, answers).await;
            return Ok(ending);
        }
    }

    async fn open(&self, index: usize) -> Result<(Polls, Answers), Error> {
        let caller = self.shared.client.caller();
        let endpoint = &caller.balance.endpoints()[index];
        let attempt = caller.stream_headers().await;
        let transport = InterceptedService::new(endpoint.channel(), attempt);
        let (polls, receiver) = mpsc::channel(1);
        let mut client = ApiKeyServiceClient::new(transport);
        let opened = client
            .watch_invalidations(ReceiverStream::new(receiver))
            .await;
        match opened {
            Ok(answers) => Ok((polls, answers.into_inner())),
            Err(status) => Err(Error::from_status(&status, &endpoint.url, OPEN_LIMIT)),
        }
    }

    /// The next poll, and the time before it is sent. It acknowledges what was taken.
    fn poll(&mut self) -> (Now, v1::WatchInvalidationsRequest) {
        self.last += 1;
        let state = self.shared.state.load();
        let (known, applied) = state.fence.known();
        let epoch = (known != Epoch::NONE).then_some(v1::Epoch {
            system: known.system,
            timeline: known.timeline,
            incarnation: known.incarnation,
        });
        let poll = v1::WatchInvalidationsRequest {
            poll: self.last,
            epoch,
            applied,
            off: false,
            used: self.used(),
        };
        (Now::read(&self.shared.clock), poll)
    }

    /// Takes some of the keys whose use is to be reported, the oldest first.
    fn used(&self) -> Vec<Vec<u8>> {
        let mut used = self.shared.used.lock();
        let count = used.len().min(MOST_REPORTED);
        let ids = used.drain(..count);
        ids.map(|id| id.as_bytes().to_vec()).collect()
    }

    /// Takes an answer. Returns whether the stream may go on.
    fn take(&mut self, sent_at: Now, answer: v1::WatchInvalidationsResponse) -> bool {
        let Some(answer) = read(answer) else {
            tracing::warn!("a near-cache got an answer that it cannot read");
            return false;
        };
        let state = self.shared.state.load();
        if !state.fence.take(sent_at, &answer) {
            // A running Verify keeps the old object, and the new one is not fresh.
            self.install(answer.epoch);
            return false;
        }
        if answer.changes.is_none() {
            self.shared
                .counts
                .resets
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if answer.fresh_for.is_some() {
            self.fresh_at = self.shared.clock.boot();
            *self.shared.trouble.lock() = None;
        }
        true
    }

    fn forget_after_a_while(&self) {
        let (now, clock) = (Now::read(&self.shared.clock), &self.shared.clock);
        let is_fresh = self.shared.state.load().fence.is_fresh(now);
        if !is_fresh && clock.boot().since(self.fresh_at) > FORGETFUL {
            self.install(Epoch::NONE);
        }
    }

    fn install(&self, epoch: Epoch) {
        let state = State::new(epoch, self.shared.max_bytes);
        let old = self.shared.state.swap(state.into());
        old.fence.stop_being_fresh();
    }

    /// Ends freshness, then says so, and waits until the instance has ended the stream.
    async fn turn_off(&mut self, polls: Polls, mut answers: Answers) {
        self.shared.state.load().fence.stop_being_fresh();
        let off = v1::WatchInvalidationsRequest {
            off: true,
            ..self.poll().1
        };
        let told = async {
            if polls.send(off).await.is_ok() {
                // Answers that come now are not taken.
                while let Ok(Some(_)) = answers.message().await {}
            }
        };
        let _ = timeout(OFF_LIMIT, told).await;
    }
}

/// An answer as the fence takes it; `None` if it is incomplete.
fn read(answer: v1::WatchInvalidationsResponse) -> Option<NearAnswer> {
    let change = |change: v1::Invalidation| {
        let id = KeyId::from_bytes(change.id.as_slice().try_into().ok()?);
        Some((id, change.revision))
    };
    let changes = answer.invalidations.into_iter().map(change);
    let changes = changes.collect::<Option<Vec<_>>>()?;
    Some(NearAnswer {
        epoch: epoch(answer.epoch?),
        applied: answer.applied,
        fresh_for: answer.fresh_for.map(Duration::try_from).transpose().ok()?,
        database_time: timestamp(answer.store_time?),
        changes: (!answer.reset).then_some(changes),
    })
}
