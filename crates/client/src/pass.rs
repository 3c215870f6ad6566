//! Passes on a call of another program as it is.

use std::future::poll_fn;

use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;

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
        let pending = PendingCall::new(endpoint);
        let mut channel = endpoint.passed_channel();
        let answered = async {
            poll_fn(|cx| GrpcService::<Body>::poll_ready(&mut channel, cx)).await?;
            channel.call(call).await
        };
        let answer = answered.await;
        pending.ended(answer.is_err());
        answer.map_err(|failed| {
            let status = Status::from_error(Box::new(failed));
            Unanswered {
                was_sent: !error::is_connect_failure(&status),
                error: Error::from_status(&status, &endpoint.url, start.elapsed()),
            }
        })
    }
}
