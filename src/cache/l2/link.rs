//! One connection to Redis that reconnects by itself, behind a circuit breaker. Without a working
//! connection the breaker is open and every call fails at once. A new connection must answer a probe
//! in time before the breaker closes.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::servers::{Connection, Servers};
use keyward_ops::L2Metrics;

/// The longest time for one call.
pub(super) const BOUND: Duration = Duration::from_millis(50);
/// The longest time to connect to one server.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// The number of consecutive failures that end a connection. A failure adds [`FAILURE_WEIGHT`] to
/// the count, a success subtracts 1: a connection survives one failure in ten calls, but not one
/// in eight.
const MAX_FAILURES: u32 = 3;
const FAILURE_WEIGHT: u32 = 8;
/// The first and the longest pause before the next connection.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The interval at which a connection is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A connection that lasted this long was stable.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The breaker is open.
    Open,
    /// The call took longer than the bound.
    Timeout,
    /// The connection broke, or the answer was invalid.
    Broken,
    /// The server refused the call.
    Refused,
}

/// A connection that answers.
struct Session {
    connection: Connection,
    servers: Arc<Servers>,
    failures: Failures,
    is_refusal_logged: AtomicBool,
    /// Cancelled when the connection is to be replaced.
    ended: CancellationToken,
}

/// The weight of failures that successes have not offset.
#[derive(Default)]
struct Failures(AtomicU32);

impl Failures {
    fn note_success(&self) {
        let offset = |weight: u32| weight.checked_sub(1);
        // Without failures there is nothing to offset.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, offset);
    }

    /// Whether the connection has too many failures now.
    fn note_failure(&self) -> bool {
        let weight = self.0.fetch_add(FAILURE_WEIGHT, Ordering::Relaxed) + FAILURE_WEIGHT;
        weight > (MAX_FAILURES - 1) * FAILURE_WEIGHT
    }
}

/// The current connection, if there is one.
pub(super) struct Link {
    session: ArcSwapOption<Session>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            session: ArcSwapOption::empty(),
        }
    }

    /// Whether the breaker lets calls through.
    pub(super) fn lets_calls_through(&self) -> bool {
        self.session.load().is_some()
    }

    /// Makes a call within the bound.
    pub(super) async fn call<T, F>(&self, call: impl FnOnce(Connection) -> F) -> Result<T, Failed>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let session = self.session.load_full().ok_or(Failed::Open)?;
        let (failed, is_broken) = match timeout(BOUND, call(session.connection.clone())).await {
            Ok(Ok(answer)) => {
                session.failures.note_success();
                return Ok(answer);
            }
            Ok(Err(error)) if is_refusal(&error) => {
                session.failures.note_success();
                if !session.is_refusal_logged.swap(true, Ordering::Relaxed) {
                    tracing::warn!("redis refuses calls: {}", session.servers.explain(&error));
                }
                return Err(Failed::Refused);
            }
            Ok(Err(_)) => (Failed::Broken, !session.connection.reconnects_itself()),
            Err(_) => (Failed::Timeout, false),
        };
        if session.failures.note_failure() || is_broken {
            session.ended.cancel();
            // No other call should use it. Another connection may have replaced it already.
            self.session.compare_and_swap(&session, None);
        }
        Err(failed)
    }

    /// Keeps up a connection until `stop`.
    pub(super) async fn maintain(
        self: Arc<Self>,
        servers: Arc<Servers>,
        metrics: L2Metrics,
        stop: CancellationToken,
    ) {
        let mut pause = PAUSE.0;
        let mut logged = None;
        loop {
            metrics.breaker.set(HALF_OPEN);
            match probe(&servers).await {
                Ok(connection) => {
                    let session = Session {
                        connection,
                        servers: Arc::clone(&servers),
                        failures: Failures::default(),
                        is_refusal_logged: AtomicBool::new(false),
                        ended: CancellationToken::new(),
                    };
                    if self.serve(session, &metrics, &mut logged, &stop).await {
                        pause = PAUSE.0;
                    }
                    if logged.is_none() && !stop.is_cancelled() {
                        tracing::warn!(
                            "the connection to redis broke; this instance works without it"
                        );
                        logged = Some(String::new());
                    }
                }
                Err(why) => {
                    // Log changes of the state, not each attempt.
                    if logged.as_ref() != Some(&why) {
                        tracing::warn!(
                            "redis cannot be used; this instance works without it: {why}"
                        );
                        logged = Some(why);
                    }
                }
            }
            metrics.breaker.set(OPEN);
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Lets calls through to the connection until it breaks. Returns whether it was stable; then it
    /// also clears the `logged` failure.
    async fn serve(
        &self,
        session: Session,
        metrics: &L2Metrics,
        logged: &mut Option<String>,
        stop: &CancellationToken,
    ) -> bool {
        let started = tokio::time::Instant::now();
        let ended = session.ended.clone();
        self.session.store(Some(Arc::new(session)));
        metrics.breaker.set(CLOSED);
        loop {
            tokio::select! {
                () = ended.cancelled() => break,
                () = stop.cancelled() => break,
                () = sleep(PROBE_INTERVAL) => {}
            }
            if started.elapsed() >= STABLE_AFTER && logged.take().is_some() {
                tracing::info!("redis answers again");
            }
            // Detects a broken connection without calls. A failed probe counts as a failure.
            let _ = self.call(Connection::ping).await;
        }
        self.session.store(None);
        started.elapsed() >= STABLE_AFTER
    }
}

const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
const OPEN: i64 = 2;

/// Makes a connection and checks that it answers in time.
pub(super) async fn probe(servers: &Servers) -> Result<Connection, String> {
    let connection = connect(servers).await?;
    match timeout(BOUND, connection.clone().ping()).await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(error)) => Err(servers.explain(&error)),
        Err(_) => Err(format!("an answer takes longer than {BOUND:?}")),
    }
}

async fn connect(servers: &Servers) -> Result<Connection, String> {
    let patience = servers.patience();
    match timeout(patience, servers.connect(None)).await {
        Ok(made) => made.map_err(|error| servers.explain(&error)),
        Err(_) => Err(format!("no connection within {patience:?}")),
    }
}

/// Whether the server refused this one call. A server that is not a primary any more does not count:
/// its connection must be replaced.
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

    /// The call that ends a connection on which every `every`th call fails.
    fn last_call(every: u32) -> Option<u32> {
        let failures = Failures::default();
        (1..=10_000_u32).find(|call| {
            if call.is_multiple_of(every) {
                return failures.note_failure();
            }
            failures.note_success();
            false
        })
    }

    #[test]
    fn many_failures_end_a_connection_and_few_do_not() {
        assert_eq!(last_call(1), Some(MAX_FAILURES));
        assert_eq!(last_call(2), Some(2 * MAX_FAILURES));
        assert!(last_call(8).is_some());
        assert_eq!(last_call(10), None);
    }

    #[test]
    fn successes_offset_failures() {
        let failures = Failures::default();
        assert!(!failures.note_failure());
        assert!(!failures.note_failure());
        for _ in 0..2 * FAILURE_WEIGHT {
            failures.note_success();
        }
        assert!(!failures.note_failure());
    }
}
