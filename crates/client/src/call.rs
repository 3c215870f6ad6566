//! One call: attempts on one endpoint after the other, within a time for all of them.
//!
//! An attempt is repeated only after UNAVAILABLE, of which Keyward promises for every RPC that the
//! same call again is safe, and a call that changes nothing also when one instance fails otherwise;
//! and a few times only: a service that is down is not helped by more.

use std::future::Future;
use std::time::Duration;

use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::balance::{Balance, Node};
use crate::token::TokenSource;
use crate::{Error, ErrorKind};

/// How often a call is made at most.
const ATTEMPTS: u32 = 4;
/// A call that was given up before this says nothing of its endpoint.
const SLOW: Duration = Duration::from_millis(250);
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
    /// Whether it changes nothing: then an endpoint that is slow is left for another one. A change
    /// may lawfully be slow, and a peer that vanished meanwhile is noticed by the keepalive.
    pub(crate) reads: bool,
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
            // An endpoint that does not answer leaves time for another one, if there is one.
            let mut nodes = 0..self.balance.nodes().len();
            let others = attempt < ATTEMPTS && nodes.any(|at| !tried.contains(&at));
            let bound = if patience.reads && others {
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
                let left = deadline.saturating_duration_since(Instant::now());
                // A file that cannot be read in time is as good as one that has not changed.
                let other = timeout(left, self.token.is_renewed(generation)).await;
                if other.unwrap_or_default() {
                    continue;
                }
            }
            let is_repeated = match error.kind {
                ErrorKind::Unavailable => true,
                ErrorKind::Internal => patience.reads && others,
                _ => false,
            };
            if !is_repeated || attempt == ATTEMPTS {
                return Err(error);
            }
            // What one endpoint asks for does not hold for another.
            let asked = error.retry_after.filter(|_| !others).unwrap_or_default();
            let pause = pause(patience.pause, attempt).max(asked);
            if deadline.saturating_duration_since(Instant::now()) <= pause {
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
        let until = Instant::now() + bound;
        let Ok(token) = timeout(bound, self.token.current()).await else {
            let error = Error::unavailable("the token file cannot be read in time");
            return (Err(error), self.token.last().generation);
        };
        let attempt = Attempt {
            token: token.header,
            bound,
        };
        let stub = ApiKeyServiceClient::with_interceptor(node.channel.clone(), attempt)
            .max_decoding_message_size(MAX_ANSWER);
        let mut asked = Asked {
            node,
            begun: Instant::now(),
            is_answered: false,
        };
        let outcome = match timeout_at(until, send(stub)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status, &node.name)),
            Err(_) => Err(Error::unavailable(format!(
                "{}: no answer within {bound:?}",
                node.name
            ))),
        };
        asked.is_answered = true;
        match &outcome {
            Err(error) if error.speaks_against_endpoint() => {
                node.failed(asked.begun, Instant::now());
            }
            _ => node.answered(Instant::now()),
        }
        (outcome, token.generation)
    }
}

/// A call under way. Dropped before it is answered, it has been given up by who waited for it: after
/// some time that speaks against the endpoint, as if it had not answered in time.
struct Asked<'a> {
    node: &'a Node,
    begun: Instant,
    is_answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let now = Instant::now();
        if now.duration_since(self.begun) >= SLOW {
            self.node.failed(self.begun, now);
        } else {
            self.node.given_up(now);
        }
    }
}

/// How long to wait before the next attempt: anything up to a limit that doubles, so that callers
/// whose calls failed together do not come back together.
fn pause(first: Duration, attempt: u32) -> Duration {
    let limit = first * 2_u32.pow(attempt - 1);
    limit.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_keeps_its_limit() {
        let first = Duration::from_millis(20);
        for attempt in 1..=ATTEMPTS {
            for _ in 0..100 {
                assert!(pause(first, attempt) <= first * 2_u32.pow(attempt - 1));
            }
        }
    }

    #[tokio::test]
    async fn who_goes_away_soon_says_nothing_of_the_endpoint_and_who_waited_does() {
        let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
        let balance = Balance::new(vec![Node::new("a".to_owned(), channel)]);
        let node = &balance.nodes()[0];
        let asked = |ago| Asked {
            node,
            begun: Instant::now() - ago,
            is_answered: false,
        };
        drop(asked(Duration::ZERO));
        assert!(node.is_up());
        drop(asked(SLOW));
        assert!(!node.is_up());
    }
}
