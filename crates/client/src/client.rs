//! The calls.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1;
use tokio::time::{Instant, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::balance::Node;
use crate::call::{Caller, Patience};
use crate::{Builder, Error, Verdict, VerifyRequest};

/// Keyward, as one caller reaches it. Cheap to clone; the clones share their connections.
///
/// Every call may be dropped at any point. A change that was dropped may have been made: the same
/// call again is safe.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    caller: Caller,
    reads: Patience,
    changes: Patience,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes = self.0.caller.balance.nodes();
        let endpoints: Vec<_> = nodes.iter().map(|node| &node.name).collect();
        f.debug_struct("Client")
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Sets up a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(caller: Caller, reads: Patience, changes: Patience) -> Self {
        Self(Arc::new(Inner {
            caller,
            reads,
            changes,
        }))
    }

    /// Says whether a key may be used now. Role `verifier`. The answer must not be kept for later.
    ///
    /// # Errors
    ///
    /// When nobody could say: an error never speaks about the key.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verdict, Error> {
        let answer = self.read(|mut stub| {
            let wire = request.to_wire();
            async move { stub.verify(wire).await }
        });
        answer.await?.try_into()
    }

    /// The same as [`Self::verify`] for each of at most 256 keys: one verdict each, in order.
    ///
    /// # Errors
    ///
    /// Those of [`Self::verify`], for all together.
    pub async fn verify_batch(&self, requests: Vec<VerifyRequest>) -> Result<Vec<Verdict>, Error> {
        let answer = self.read(|mut stub| {
            let requests = requests.iter().map(VerifyRequest::to_wire).collect();
            async move { stub.verify_batch(v1::VerifyBatchRequest { requests }).await }
        });
        let answers = answer.await?.responses;
        if answers.len() != requests.len() {
            return Err(Error::unavailable(format!(
                "the answer holds {} verdicts on {} keys",
                answers.len(),
                requests.len()
            )));
        }
        answers.into_iter().map(Verdict::try_from).collect()
    }

    /// Gives the key of a slot, and creates it if there is none. Role `issuer`.
    ///
    /// If the answer of an attempt is lost, the next one finds the key that was made: `created` is
    /// then false, and the secret is shown only if it is recoverable and the caller is `revealer`.
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if the outcome is not known.
    pub async fn issue(&self, request: v1::IssueRequest) -> Result<v1::IssueResponse, Error> {
        self.change(|mut stub| {
            let request = request.clone();
            async move { stub.issue(request).await }
        })
        .await
    }

    /// Revokes a key, or all keys of an account, and returns only when they are dead everywhere.
    /// Role `issuer`. Idempotent; if the answer of an attempt is lost, the next one names the same
    /// successor, whose secret is shown as by [`Self::issue`].
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if it is not proven yet that they are dead.
    pub async fn revoke(&self, request: v1::RevokeRequest) -> Result<v1::RevokeResponse, Error> {
        self.change(|mut stub| {
            let request = request.clone();
            async move { stub.revoke(request).await }
        })
        .await
    }

    /// Shows one key, whatever its state, never its secret. Role `reader`.
    ///
    /// # Errors
    ///
    /// Those of the RPC.
    pub async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
        self.read(|mut stub| {
            let request = request.clone();
            async move { stub.get(request).await }
        })
        .await
    }

    /// Shows the keys of an account, page by page. Role `reader`.
    ///
    /// # Errors
    ///
    /// Those of the RPC.
    pub async fn list(&self, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
        self.read(|mut stub| {
            let request = request.clone();
            async move { stub.list(request).await }
        })
        .await
    }

    /// Changes a key, and returns only when the change is in force everywhere. Role `editor`.
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if it is not proven yet that it is in force.
    pub async fn update(&self, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Error> {
        self.change(|mut stub| {
            let request = request.clone();
            async move { stub.update(request).await }
        })
        .await
    }

    /// Whether any instance serves, by `grpc.health.v1`. Takes no token, so it says nothing about
    /// this client's own.
    ///
    /// # Errors
    ///
    /// When none does: why the last one asked does not.
    pub async fn health(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.0.reads.total;
        let nodes = self.0.caller.balance.nodes();
        let mut last = None;
        for (asked, node) in nodes.iter().enumerate() {
            // One that does not answer leaves their share to the others.
            let shares = u32::try_from(nodes.len() - asked).unwrap_or(u32::MAX);
            let bound = deadline.saturating_duration_since(Instant::now()) / shares;
            match serves(node, bound).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unavailable("no endpoint")))
    }

    async fn read<T, F>(&self, send: impl Fn(crate::call::Stub) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.0.caller.call(self.0.reads, send).await
    }

    async fn change<T, F>(&self, send: impl Fn(crate::call::Stub) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.0.caller.call(self.0.changes, send).await
    }
}

async fn serves(node: &Node, bound: Duration) -> Result<(), Error> {
    let mut health = HealthClient::new(node.channel.clone());
    let asked = health.check(HealthCheckRequest::default());
    match timeout(bound, asked).await {
        Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
        Ok(Ok(_)) => Err(Error::unavailable(format!(
            "{}: it does not serve now",
            node.name
        ))),
        Ok(Err(status)) => Err(Error::from_status(&status, &node.name)),
        Err(_) => Err(Error::unavailable(format!(
            "{}: no answer within {bound:?}",
            node.name
        ))),
    }
}
