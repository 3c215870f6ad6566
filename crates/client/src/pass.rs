//! Passes on a call of another program as it is.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::Instant;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Code, Status};

use crate::call::PendingCall;
use crate::{Client, Error, error};

/// A call that was passed on has no answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unanswered {
    /// What happened.
    pub error: Error,
    /// Whether an instance may have got the call.
    pub was_sent: bool,
}

impl Client {
    /// Passes on a call to one of the endpoints, with its path, headers and body as they are, so with its own
    /// token and never with this client's. It is not repeated, and has no time limit but its own.
    ///
    /// # Errors
    ///
    /// If the endpoint gave no answer. A status of the endpoint is an answer.
    pub async fn pass_on(
        &self,
        call: http::Request<Body>,
    ) -> Result<http::Response<Body>, Unanswered> {
        let balance = &self.caller().balance;
        let endpoint = &balance.endpoints()[balance.pick(&[], Instant::now())];
        let start = Instant::now();
        let pending = PendingCall::passed(endpoint);
        let mut channel = endpoint.passed_channel();
        let answered = async {
            poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx)).await?;
            channel.call(call).await
        };
        let answer = answered.await;
        pending.ended(match &answer {
            Ok(answer) => is_unavailable(answer, &endpoint.url),
            Err(_) => true,
        });
        answer.map_err(|failed| {
            let status = Status::from_error(Box::new(failed));
            Unanswered {
                was_sent: !error::is_connect_failure(&status),
                error: Error::from_status(&status, &endpoint.url, start.elapsed()),
            }
        })
    }
}

/// Whether an answer says that the instance cannot answer: a status without a message. Other failures may be
/// its caller's.
fn is_unavailable(answer: &http::Response<Body>, url: &str) -> bool {
    Status::from_header_map(answer.headers())
        .filter(|status| status.code() == Code::Unavailable)
        .is_some_and(|status| {
            Error::from_status(&status, url, Duration::ZERO).is_endpoint_failure()
        })
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn only_an_instance_that_cannot_answer_is_unavailable() {
        let of = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, "keyward", []);
            let status = Status::with_error_details(code, "no", details);
            is_unavailable(&status.into_http(), "http://a")
        };
        assert!(of(Code::Unavailable, "NOT_FRESH"));
        assert!(!of(Code::Unavailable, "REVOKE_UNCONFIRMED"));
        assert!(!of(Code::DeadlineExceeded, "DEADLINE"));
        assert!(!of(Code::Unauthenticated, "TOKEN_INVALID"));
        let answer = http::Response::new(Body::empty());
        assert!(!is_unavailable(&answer, "http://a"));
    }
}
