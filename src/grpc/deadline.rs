//! Answers a call whose deadline (`grpc-timeout`) passes, and says whether it may have changed
//! something. A change that has started runs to its end on the control runtime.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::status;
use crate::service::ServiceError;

/// What a call with a deadline did first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    StartedChange,
    MissedDeadline,
}

/// Shares between a call and its deadline which of the two was first. Exactly one is, on any threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<OnceLock<First>>);

impl Progress {
    /// Starts a change, unless the deadline has passed.
    pub(super) fn start_change(&self) -> Result<(), ServiceError> {
        match self.0.get_or_init(|| First::StartedChange) {
            First::StartedChange => Ok(()),
            First::MissedDeadline => Err(ServiceError::DeadlinePassed),
        }
    }

    /// Ends the call at its deadline.
    fn end(&self) -> Status {
        match self.0.get_or_init(|| First::MissedDeadline) {
            First::StartedChange => status::deadline_passed_in_change(),
            First::MissedDeadline => ServiceError::DeadlinePassed.into(),
        }
    }
}

/// Ends every call of the inner service at its deadline.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let limit = match limit(request.headers()) {
            Ok(Some(limit)) => limit,
            Ok(None) => return self.0.call(request).boxed(),
            Err(refusal) => return ready(Ok(refusal.into_http())).boxed(),
        };
        let progress = Progress::default();
        if limit.is_zero() {
            return ready(Ok(progress.end().into_http())).boxed();
        }
        let passed = tokio::time::sleep(limit);
        request.extensions_mut().insert(progress.clone());
        let call = self.0.call(request);
        async move {
            tokio::select! {
                biased;
                answer = call => answer,
                () = passed => Ok(progress.end().into_http()),
            }
        }
        .boxed()
    }
}

/// Ends `work`, which changes nothing, after `limit`.
pub(super) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    let Some(limit) = limit else {
        return work.await;
    };
    let ended = tokio::time::timeout(limit, work).await;
    ended.unwrap_or(Err(ServiceError::DeadlinePassed))
}

/// The time that the caller gives the call, if it sets a deadline.
pub(super) fn limit(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    match read(value) {
        Some(limit) => Ok(Some(limit)),
        None => Err(status::malformed_timeout(value)),
    }
}

/// Digits and a unit. More digits than gRPC allows mean a longer time.
fn read(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = std::str::from_utf8(digits)
        .ok()?
        .parse()
        .unwrap_or(u64::MAX);
    Some(match unit {
        b'H' => Duration::from_secs(count.saturating_mul(3_600)),
        b'M' => Duration::from_secs(count.saturating_mul(60)),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read_and_a_huge_value_does_not_overflow() {
        for (text, seconds) in [("2H", 7_200.0), ("2M", 120.0), ("2S", 2.0), ("2m", 2e-3)] {
            let read = read(&HeaderValue::from_static(text));
            assert_eq!(read, Some(Duration::from_secs_f64(seconds)), "{text}");
        }
        let read = |text| read(&HeaderValue::from_static(text));
        assert_eq!(read("2u"), Some(Duration::from_micros(2)));
        assert_eq!(read("2n"), Some(Duration::from_nanos(2)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        let forever = Some(Duration::from_secs(u64::MAX));
        assert_eq!(read("99999999999999999999999H"), forever);
    }
}
