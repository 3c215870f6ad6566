//! One connection to Redis that is made anew whenever it does not do, with the breaker that follows
//! from it: while there is no connection that answers, nobody asks. A new one has to answer a probe
//! in time before anybody does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::servers::{Connection, Servers};
use keyward_ops::L2Metrics;

/// How long one call may take.
pub(super) const BOUND: Duration = Duration::from_millis(50);
/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// So many calls that fail end a connection, in a row or among calls that succeed: each of those makes
/// good for one part in [`WEIGHT`] of a failure, so that one call in ten may fail, and not one in eight.
const PATIENCE: u32 = 3;
const WEIGHT: u32 = 8;
/// How long it rests after a connection ended, and at most when the next ones do not do either.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How often a connection is asked whether it still answers.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A connection that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(5);

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// There is no connection that answers.
    Open,
    /// It took longer than the bound.
    Timeout,
    /// The connection broke, or says what is no answer.
    Broken,
    /// The server refused it.
    Refused,
}

/// A connection that answers.
struct Session {
    connection: Connection,
    failures: Failures,
    /// Whether the log was told that the server refuses calls.
    told: AtomicBool,
    over: CancellationToken,
}

/// What failures weigh that were not made good for.
#[derive(Default)]
struct Failures(AtomicU32);

impl Failures {
    fn note_answer(&self) {
        let made_good = |weight: u32| weight.checked_sub(1);
        // Nothing to make good for is fine, too.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, made_good);
    }

    /// Whether it is one too many.
    fn note_failure(&self) -> bool {
        let weight = self.0.fetch_add(WEIGHT, Ordering::Relaxed) + WEIGHT;
        weight > (PATIENCE - 1) * WEIGHT
    }
}

/// Where there is a connection, or none.
pub(super) struct Link {
    session: ArcSwapOption<Session>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            session: ArcSwapOption::empty(),
        }
    }

    /// Whether calls are let through.
    pub(super) fn is_closed(&self) -> bool {
        self.session.load().is_some()
    }

    /// Makes a call within the bound.
    pub(super) async fn call<T, F>(&self, ask: impl FnOnce(Connection) -> F) -> Result<T, Failed>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let session = self.session.load_full().ok_or(Failed::Open)?;
        let (failed, at_once) = match timeout(BOUND, ask(session.connection.clone())).await {
            Ok(Ok(answer)) => {
                session.failures.note_answer();
                return Ok(answer);
            }
            Ok(Err(error)) if is_refusal(&error) => {
                session.failures.note_answer();
                if !session.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(why = told(&error), "redis refuses calls");
                }
                return Err(Failed::Refused);
            }
            Ok(Err(_)) => (Failed::Broken, !session.connection.heals_itself()),
            Err(_) => (Failed::Timeout, false),
        };
        if session.failures.note_failure() || at_once {
            session.over.cancel();
            // Nobody else should wait for it; by now there may be another one.
            self.session.compare_and_swap(&session, None);
        }
        Err(failed)
    }

    /// Keeps a connection until `stop`.
    pub(super) async fn keep(
        self: Arc<Self>,
        servers: Arc<Servers>,
        metrics: L2Metrics,
        stop: CancellationToken,
    ) {
        let mut rest = REST.0;
        let mut told = None;
        loop {
            metrics.breaker.set(HALF_OPEN);
            match probe(&servers).await {
                Ok(connection) => {
                    if self.hold(connection, &metrics, &mut told, &stop).await {
                        rest = REST.0;
                    }
                    if told.is_none() && !stop.is_cancelled() {
                        tracing::warn!("redis does not answer as it should, and is done without");
                        told = Some(String::new());
                    }
                }
                Err(why) => {
                    // A line when the state changes, not for each attempt.
                    if told.as_ref() != Some(&why) {
                        tracing::warn!("redis does not answer, and is done without: {why}");
                        told = Some(why);
                    }
                }
            }
            metrics.breaker.set(OPEN);
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = (rest * 2).min(REST.1);
        }
    }

    /// Lets calls through to `connection` until it does not do any more; whether it was a good one.
    /// What was `told` is taken back once it is.
    async fn hold(
        &self,
        connection: Connection,
        metrics: &L2Metrics,
        told: &mut Option<String>,
        stop: &CancellationToken,
    ) -> bool {
        let begun = tokio::time::Instant::now();
        let over = CancellationToken::new();
        self.session.store(Some(Arc::new(Session {
            connection,
            failures: Failures::default(),
            told: AtomicBool::new(false),
            over: over.clone(),
        })));
        metrics.breaker.set(CLOSED);
        loop {
            tokio::select! {
                () = over.cancelled() => break,
                () = stop.cancelled() => break,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            if begun.elapsed() >= GOOD && told.take().is_some() {
                tracing::info!("redis answers again");
            }
            // One that nobody asks anything must not go wrong unnoticed. What fails counts.
            let _ = self.call(Connection::ping).await;
        }
        self.session.store(None);
        begun.elapsed() >= GOOD
    }
}

const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
const OPEN: i64 = 2;

/// A new connection, which answers in time.
async fn probe(servers: &Servers) -> Result<Connection, String> {
    let connection = connect(servers).await?;
    match timeout(BOUND, connection.clone().ping()).await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err(format!("it takes longer than {BOUND:?} to answer")),
    }
}

async fn connect(servers: &Servers) -> Result<Connection, String> {
    let patience = servers.patience();
    match timeout(patience, servers.connect(None)).await {
        Ok(made) => made.map_err(|error| told(&error)),
        Err(_) => Err(format!("no connection within {patience:?}")),
    }
}

/// What may be told of an error. A server's own words may repeat what was sent, the password included.
fn told(error: &RedisError) -> String {
    match error.kind() {
        ErrorKind::Io => error.to_string(),
        _ => error.category().to_owned(),
    }
}

/// Whether the server answered, with a refusal of this one call. One that is no primary any more is
/// not the server that is wanted.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => false,
        ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many calls it is too much when each `every`th fails.
    fn borne(every: u32) -> Option<u32> {
        let failures = Failures::default();
        (1..=10_000_u32).find(|call| {
            if call.is_multiple_of(every) {
                return failures.note_failure();
            }
            failures.note_answer();
            false
        })
    }

    #[test]
    fn some_failures_are_borne_and_not_many_whether_in_a_row_or_between_answers() {
        assert_eq!(borne(1), Some(PATIENCE));
        assert_eq!(borne(2), Some(2 * PATIENCE));
        assert!(borne(8).is_some());
        assert_eq!(borne(10), None);
    }

    #[test]
    fn what_was_made_good_for_is_forgotten() {
        let failures = Failures::default();
        assert!(!failures.note_failure());
        assert!(!failures.note_failure());
        for _ in 0..2 * WEIGHT {
            failures.note_answer();
        }
        assert!(!failures.note_failure());
    }
}
