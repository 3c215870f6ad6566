//! Observes the calls to a store: a span and a duration for each call, and a log line when calls
//! begin to fail and when they succeed again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::Instrument;
use tracing::field::Empty;

use super::{Interceptor, Result, StoreError};
use keyward_core::key::{BootTime, Clock};
use keyward_ops::Metrics;

/// An outage ends when no call has failed for this long.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often a continuing outage is logged again.
const REMINDER: Duration = Duration::from_secs(60);

/// The interceptor that measures and logs each call.
pub struct Instrumentation {
    /// The database, by the conventions of OpenTelemetry.
    system: &'static str,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Whether there is an outage, so that a successful call need not take the lock.
    failing: AtomicBool,
    outage: Mutex<Option<Outage>>,
}

/// A time in which calls fail. Its start and its end are logged, not each failed call.
#[derive(Clone, Copy, Debug)]
struct Outage {
    failed: u64,
    logged_at: BootTime,
    last_failure: BootTime,
    /// Whether a refusal was logged, which says what an operator must do.
    is_refusal_logged: bool,
}

impl Instrumentation {
    /// Measures durations by `clock`. `system` names the database in spans: `postgresql` or `sqlite`.
    pub fn new(system: &'static str, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            system,
            clock,
            metrics,
            failing: AtomicBool::new(false),
            outage: Mutex::default(),
        }
    }

    fn note_failure(&self, call: &'static str, error: &StoreError, now: BootTime) {
        let mut outage = self.outage.lock();
        let begins = outage.is_none();
        let current = outage.get_or_insert(Outage {
            failed: 0,
            logged_at: now,
            last_failure: now,
            is_refusal_logged: false,
        });
        let is_refusal = matches!(error, StoreError::Refused(_));
        let is_new = is_refusal && !current.is_refusal_logged;
        current.is_refusal_logged |= is_refusal;
        current.failed += 1;
        current.last_failure = now;
        self.failing.store(true, Ordering::Relaxed);
        if begins || is_new {
            tracing::warn!(call, %error, "a store call failed");
        } else if now.since(current.logged_at) >= REMINDER {
            current.logged_at = now;
            tracing::warn!(call, failed = current.failed, %error, "store calls still fail");
        }
    }

    fn note_success(&self, now: BootTime) {
        let mut outage = self.outage.lock();
        let ended = outage.take_if(|outage| now.since(outage.last_failure) >= RECOVERY);
        if let Some(outage) = ended {
            self.failing.store(false, Ordering::Relaxed);
            tracing::info!(failed = outage.failed, "store calls succeed again");
        }
    }
}

impl Interceptor for Instrumentation {
    async fn intercept<T: Send>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let started = self.clock.boot();
        let span = tracing::debug_span!(
            "store",
            otel.name = call,
            otel.kind = "client",
            otel.status_code = Empty,
            db.system.name = self.system,
            db.operation.name = call,
            error.type = Empty,
        );
        let result = work.instrument(span.clone()).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::OutcomeUnknown(_)) => "unknown",
            Err(StoreError::Damaged(_)) => "damaged",
            Err(StoreError::Refused(_)) => "refused",
            Err(StoreError::Locked(_)) => "locked",
        };
        if result.is_err() {
            span.record("error.type", outcome);
            span.record("otel.status_code", "ERROR");
        }
        let ended = self.clock.boot();
        self.metrics.store_call(call, outcome, ended.since(started));
        match &result {
            Err(error) => self.note_failure(call, error, ended),
            Ok(_) if self.failing.load(Ordering::Relaxed) => self.note_success(ended),
            Ok(_) => {}
        }
        result
    }
}
