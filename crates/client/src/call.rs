//! One call: attempts on one endpoint after the other, within a time for all of them.
//!
//! An attempt is repeated only after UNAVAILABLE, of which Keyward promises for every RPC that the
//! same call again is safe, and a few times only: a service that is down is not helped by more.

use std::future::Future;
use std::time::Duration;

use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::time::{Instant, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::balance::Balance;
use crate::token::TokenSource;
use crate::{Error, ErrorKind};

/// How often a call is made at most.
const ATTEMPTS: u32 = 4;
/// Answers may be so large: a page of a thousand keys with all their notes.
const MAX_ANSWER: usize = 16 << 20;

/// The service, as one attempt reaches it.
pub(crate) type Stub = ApiKeyServiceClient<InterceptedService<Channel, Attempt>>;

/// What one attempt adds to the call.
#[derive(Clone)]
pub(crate) struct Attempt {
    token: MetadataValue<Ascii>,
    bound: Duration,
}

impl Interceptor for Attempt {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // The service need not work on what nobody waits for.
        request.set_timeout(self.bound);
        request
            .metadata_mut()
            .insert("authorization", self.token.clone());
        Ok(request)
    }
}

/// How long a call may take, and how soon it is repeated.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    /// All attempts and the pauses between them.
    pub(crate) total: Duration,
    /// The longest pause before the second attempt; it doubles from then on.
    pub(crate) pause: Duration,
    /// Whether an endpoint that is slow is left for another one. A change may lawfully be slow, and
    /// a peer that vanished meanwhile is noticed by the keepalive.
    pub(crate) hurries: bool,
}

/// Who is asked, and as whom.
pub(crate) struct Caller {
    pub(crate) balance: Balance,
    pub(crate) token: TokenSource,
}

impl Caller {
    /// Makes a call. `send` is asked for each attempt.
    pub(crate) async fn call<T, F>(
        &self,
        patience: Patience,
        send: impl Fn(Stub) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + patience.total;
        let mut tried = Vec::new();
        let mut renewed = false;
        let mut attempt = 1;
        loop {
            let at = self.balance.pick(&tried, Instant::now());
            tried.push(at);
            let left = deadline.saturating_duration_since(Instant::now());
            // An endpoint that does not answer leaves time for another one.
            let others = self.balance.nodes().len() > 1 && attempt < ATTEMPTS;
            let bound = if patience.hurries && others {
                left / 2
            } else {
                left
            };
            let (outcome, generation) = self.attempt(at, bound, &send).await;
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.kind == ErrorKind::Unauthorized && !renewed {
                // The token may have been rotated a moment ago.
                renewed = true;
                self.token.look().await;
                if self.token.current().await.generation != generation {
                    continue;
                }
            }
            if error.kind != ErrorKind::Unavailable || attempt == ATTEMPTS {
                return Err(error);
            }
            let pause = pause(patience.pause, attempt, &error);
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, attempt, "the call is made again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Asks one endpoint once: its answer, and which token it was asked with.
    async fn attempt<T, F>(
        &self,
        at: usize,
        bound: Duration,
        send: &impl Fn(Stub) -> F,
    ) -> (Result<T, Error>, u64)
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let node = &self.balance.nodes()[at];
        let token = self.token.current().await;
        let attempt = Attempt {
            token: token.header,
            bound,
        };
        let stub = ApiKeyServiceClient::with_interceptor(node.channel.clone(), attempt)
            .max_decoding_message_size(MAX_ANSWER);
        let outcome = match timeout(bound, send(stub)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status, &node.name)),
            Err(_) => Err(Error::unavailable(format!(
                "{}: no answer within {bound:?}",
                node.name
            ))),
        };
        match &outcome {
            Err(error) if error.speaks_against_endpoint() => node.failed(Instant::now()),
            _ => node.answered(),
        }
        (outcome, token.generation)
    }
}

/// How long to wait before the next attempt: anything up to a limit that doubles, so that callers
/// whose calls failed together do not come back together. Not before the service asked for.
fn pause(first: Duration, attempt: u32, error: &Error) -> Duration {
    let limit = first * 2_u32.pow(attempt - 1);
    let drawn = limit.mul_f64(fastrand::f64());
    drawn.max(error.retry_after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_keeps_its_limit_and_what_was_asked_for() {
        let first = Duration::from_millis(20);
        let mut error = Error::unavailable("x");
        for attempt in 1..=ATTEMPTS {
            for _ in 0..100 {
                assert!(pause(first, attempt, &error) <= first * 2_u32.pow(attempt - 1));
            }
        }
        error.retry_after = Some(Duration::from_secs(3));
        assert_eq!(pause(first, 1, &error), Duration::from_secs(3));
    }
}
