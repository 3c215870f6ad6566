//! One call: attempts on one endpoint after the other, within one time limit.
//!
//! A call is repeated after a failure of the kind [`ErrorKind::Unavailable`], because Keyward promises
//! that the same call is then safe; CreateToken only if it was never sent. A read is also repeated when
//! one endpoint fails in another way. The number of repetitions is bounded: more calls do not help a
//! service that is down.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::balance::{Balance, Endpoint};
use crate::certificate::CertificateSource;
use crate::rpc::{Kind, Rpc};
use crate::token::{Token, TokenSource};
use crate::{Error, ErrorKind, error};

/// A call that its caller drops before this time says nothing about the endpoint.
const SLOW: Duration = Duration::from_millis(250);

/// One endpoint, with everything that one attempt adds to the call.
pub(crate) type Transport = InterceptedService<Channel, Attempt>;

/// Adds headers of the user of this crate to an attempt.
#[derive(Clone, Default)]
pub(crate) struct AddHeaders(pub(crate) Option<Arc<Add>>);

type Add = dyn Fn(&mut HeaderMap) + Send + Sync;

impl std::fmt::Debug for AddHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

/// The headers of one attempt.
#[derive(Clone)]
pub struct Attempt {
    token: Option<MetadataValue<Ascii>>,
    /// `None` for a stream, which has no end.
    limit: Option<Duration>,
    headers: AddHeaders,
}

impl Interceptor for Attempt {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // The service stops working on a call when its client no longer waits.
        if let Some(limit) = self.limit {
            request.set_timeout(limit);
        }
        if let Some(add) = &self.headers.0 {
            add(request.metadata_mut().as_mut());
        }
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// How long a call may take, and how soon it is repeated.
#[derive(Clone, Copy)]
pub(crate) struct Policy {
    /// The limit for all attempts and the pauses between them.
    pub(crate) total: Duration,
    /// The longest pause before the second attempt; it doubles with each attempt.
    pub(crate) pause: Duration,
}

/// Makes calls to all endpoints, with one token.
pub(crate) struct Caller {
    pub(crate) balance: Balance,
    pub(crate) token: TokenSource,
    pub(crate) certificate: Option<CertificateSource>,
    pub(crate) reads: Policy,
    pub(crate) changes: Policy,
    /// How often a call is repeated at most.
    pub(crate) retries: u32,
    pub(crate) headers: AddHeaders,
}

impl Caller {
    /// Makes a call.
    pub(crate) async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Error> {
        // A change may be slow for good reason, so it keeps its endpoint: the keepalive notices a
        // peer that vanishes meanwhile.
        let is_read = R::KIND == Kind::Read;
        let policy = if is_read { self.reads } else { self.changes };
        let attempts = self.retries.saturating_add(1);
        let deadline = Instant::now() + policy.total;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut tried = Vec::new();
        let mut token_renewed = false;
        let mut attempt = 1;
        loop {
            let index = self.balance.pick(&tried, Instant::now());
            tried.push(index);
            let has_others = attempt < attempts && self.balance.has_untried(&tried);
            // A silent endpoint leaves time for another one.
            let limit = if is_read && has_others {
                left() / 2
            } else {
                left()
            };
            let (outcome, generation, was_sent) = self.attempt(index, limit, request.clone()).await;
            let error = match outcome {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.kind == ErrorKind::Unauthorized && !token_renewed {
                // The token may have been rotated a moment ago. A file that cannot be read in time
                // counts as unchanged.
                token_renewed = true;
                let renewed = timeout(left(), self.token.is_renewed(generation)).await;
                if renewed.unwrap_or_default() {
                    continue;
                }
            }
            let may_repeat = match error.kind {
                ErrorKind::Unavailable => {
                    !error.is_over_allowance() && (R::KIND != Kind::Once || !was_sent)
                }
                ErrorKind::Internal => is_read && has_others,
                _ => false,
            };
            if !may_repeat || attempt >= attempts {
                return Err(error);
            }
            // One endpoint's `retry_after` does not apply to another.
            let retry_after = error.retry_after.filter(|_| !has_others);
            let pause = pause(policy.pause, attempt).max(retry_after.unwrap_or_default());
            if left() <= pause {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "the call is repeated");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// The token, after what has changed was read again.
    async fn renewed(&self) -> Token {
        if let Some(certificate) = &self.certificate {
            certificate.renew(&self.balance).await;
        }
        self.token.current().await
    }

    /// The headers for a stream.
    #[cfg(feature = "near-cache")]
    pub(crate) async fn stream_headers(&self) -> Attempt {
        Attempt {
            token: self.renewed().await.header,
            limit: None,
            headers: AddHeaders::default(),
        }
    }

    /// Calls one endpoint once. Returns the outcome, the generation of the token, and whether the call
    /// may have been sent.
    async fn attempt<R: Rpc>(
        &self,
        index: usize,
        limit: Duration,
        request: R,
    ) -> (Result<R::Response, Error>, u64, bool) {
        let endpoint = &self.balance.endpoints()[index];
        let deadline = Instant::now() + limit;
        let Ok(token) = timeout(limit, self.renewed()).await else {
            let error = Error::unavailable("the token file cannot be read in time");
            return (Err(error), self.token.last().generation, false);
        };
        let attempt = Attempt {
            token: token.header,
            limit: Some(limit),
            headers: self.headers.clone(),
        };
        let transport = InterceptedService::new(endpoint.channel(), attempt);
        let pending = PendingCall::new(endpoint);
        let mut was_sent = true;
        let span = attempt_span::<R>(&endpoint.url);
        let sent = timeout_at(deadline, request.send(transport));
        let answer = sent.instrument(span.clone()).await;
        end(
            &span,
            match &answer {
                Ok(Ok(_)) => Code::Ok,
                Ok(Err(status)) => status.code(),
                Err(_) => Code::DeadlineExceeded,
            },
        );
        let outcome = match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                was_sent = !error::is_connect_failure(&status);
                Err(Error::from_status(&status, &endpoint.url, limit))
            }
            Err(_) => Err(Error::no_response(&endpoint.url, limit)),
        };
        let is_failure = matches!(&outcome, Err(error) if error.is_endpoint_failure());
        pending.ended(is_failure);
        (outcome, token.generation, was_sent)
    }
}

/// The span of an attempt, by the conventions of OpenTelemetry.
fn attempt_span<R: Rpc>(url: &str) -> Span {
    tracing::debug_span!(
        "call",
        otel.name = R::method(),
        otel.kind = "client",
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = R::method(),
        rpc.response.status_code = Empty,
        server.address = url,
        error.type = Empty,
    )
}

/// Notes how an attempt ended.
fn end(span: &Span, code: Code) {
    if span.is_disabled() {
        return;
    }
    // As gRPC's documentation writes it: `InvalidArgument` is INVALID_ARGUMENT.
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    span.record("rpc.response.status_code", &name);
    if code != Code::Ok {
        span.record("error.type", name);
        span.record("otel.status_code", "ERROR");
    }
}

/// A call in progress. If its caller drops it after some time, that counts as a failure of the
/// endpoint, as if the call had timed out.
pub(crate) struct PendingCall<'a> {
    endpoint: &'a Endpoint,
    start: Instant,
    has_ended: bool,
    /// Whether it is the call of another program, which may drop it for any reason.
    is_passed: bool,
}

impl<'a> PendingCall<'a> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self {
            endpoint,
            start: Instant::now(),
            has_ended: false,
            is_passed: false,
        }
    }

    /// A call that is passed on.
    pub(crate) fn passed(endpoint: &'a Endpoint) -> Self {
        let mut call = Self::new(endpoint);
        call.is_passed = true;
        call
    }

    /// Records how the call ended: with an answer, or with a failure of the endpoint.
    pub(crate) fn ended(mut self, is_failure: bool) {
        self.has_ended = true;
        let now = Instant::now();
        match is_failure {
            true => self.endpoint.failed(self.start, now),
            false => self.endpoint.answered(now),
        }
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.start) >= SLOW && !self.is_passed {
            self.endpoint.failed(self.start, now);
        } else {
            self.endpoint.probe_dropped(now);
        }
    }
}

/// The pause before the next attempt: a random time below a limit that doubles, so that callers
/// whose calls failed together do not return together.
pub(crate) fn pause(first: Duration, attempt: u32) -> Duration {
    const MAX_DOUBLINGS: u32 = 10;
    let limit = first * 2_u32.pow(attempt.saturating_sub(1).min(MAX_DOUBLINGS));
    limit.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Channels;

    #[test]
    fn pause_stays_below_its_limit() {
        let first = Duration::from_millis(20);
        for attempt in 1..=4 {
            for _ in 0..100 {
                assert!(pause(first, attempt) <= first * 2_u32.pow(attempt - 1));
            }
        }
        assert!(pause(first, u32::MAX) <= first * 1024);
    }

    #[tokio::test]
    async fn dropped_call_counts_against_the_endpoint_only_if_it_was_slow() {
        let balance = Balance::new(vec![Endpoint::new("a".to_owned(), Channels::nowhere())]);
        let endpoint = &balance.endpoints()[0];
        let pending = |age, is_passed| PendingCall {
            endpoint,
            start: Instant::now() - age,
            has_ended: false,
            is_passed,
        };
        drop(pending(Duration::ZERO, false));
        drop(pending(SLOW, true));
        assert!(endpoint.is_up());
        drop(pending(SLOW, false));
        assert!(!endpoint.is_up());
    }
}
