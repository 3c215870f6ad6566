//! The client's public calls.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1;
use tokio::time::{Instant, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::balance::Endpoint;
use crate::call::Caller;
use crate::{Builder, Error, Rpc, Verdict, VerifyRequest};

/// A client of Keyward. Cheap to clone; the clones share their connections.
///
/// Every call may be dropped at any point. A dropped change may have happened: repeating the call is
/// safe.
#[derive(Clone)]
pub struct Client(Arc<Caller>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints = self.0.balance.endpoints().iter();
        let urls: Vec<_> = endpoints.map(|endpoint| &endpoint.url).collect();
        f.debug_struct("Client")
            .field("endpoints", &urls)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Sets up a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(caller: Caller) -> Self {
        Self(Arc::new(caller))
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.0
    }

    /// Checks whether a key may be used now. Role `verifier`. Do not keep the answer for later.
    ///
    /// # Errors
    ///
    /// If Keyward gave no answer. An error says nothing about the key.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verdict, Error> {
        Ok(self.call(request.to_wire(false)).await?.try_into()?)
    }

    /// Checks at most 256 keys, as [`Self::verify`] does: one verdict each, in order.
    ///
    /// # Errors
    ///
    /// Those of [`Self::verify`], for all keys together.
    pub async fn verify_batch(&self, requests: Vec<VerifyRequest>) -> Result<Vec<Verdict>, Error> {
        let responses = self.call_batch(&requests, false).await?.into_iter();
        Ok(responses.map(Verdict::try_from).collect::<Result<_, _>>()?)
    }

    /// Verifies several keys by one call: one response each, in order.
    pub(crate) async fn call_batch(
        &self,
        requests: &[VerifyRequest],
        want_cache_entry: bool,
    ) -> Result<Vec<v1::VerifyResponse>, Error> {
        let wire = requests
            .iter()
            .map(|request| request.to_wire(want_cache_entry));
        let requests: Vec<_> = wire.collect();
        let count = requests.len();
        let response = self.call(v1::VerifyBatchRequest { requests }).await?;
        if response.responses.len() != count {
            return Err(Error::unavailable(format!(
                "the response holds {} verdicts for {count} keys",
                response.responses.len(),
            )));
        }
        Ok(response.responses)
    }

    /// Returns the key of a slot, and creates it if the slot is empty. Role `issuer`.
    ///
    /// If the response to an attempt is lost, the next attempt finds the new key. `created` is then
    /// false, and the secret is shown only if the key is recoverable and the caller is `revealer`.
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if the outcome is unknown.
    pub async fn issue(&self, request: v1::IssueRequest) -> Result<v1::IssueResponse, Error> {
        self.call(request).await
    }

    /// Revokes a key, or all keys of an account, and returns when they are dead everywhere. Role
    /// `issuer`. Idempotent: if the response to an attempt is lost, the next attempt returns the same
    /// successor, and shows its secret under the conditions of [`Self::issue`].
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if the revocation is not yet confirmed everywhere.
    pub async fn revoke(&self, request: v1::RevokeRequest) -> Result<v1::RevokeResponse, Error> {
        self.call(request).await
    }

    /// Shows one key in any state, without its secret. Role `reader`.
    ///
    /// # Errors
    ///
    /// Those of the RPC.
    pub async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
        self.call(request).await
    }

    /// Shows one page of an account's keys. Role `reader`.
    ///
    /// # Errors
    ///
    /// Those of the RPC.
    pub async fn list(&self, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
        self.call(request).await
    }

    /// Changes a key, and returns when the change is in force everywhere. Role `editor`.
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if the change is not yet confirmed everywhere.
    pub async fn update(&self, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Error> {
        self.call(request).await
    }

    /// Makes any call of `ApiKeyService` or `AdminService`, with this client's endpoints, TLS trust,
    /// token, time limit and retries:
    ///
    /// ```
    /// # use keyward_client::{Client, Error, v1};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let request = v1::ListTokensRequest::default();
    /// let page: v1::ListTokensResponse = client.call(request).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `CreateToken` is repeated only if no connection was made, because each repetition makes another
    /// token. For keys that
    /// guard something, call [`Self::verify`]: it refuses every incomplete or unknown verdict, while
    /// this method returns the message as it is.
    ///
    /// # Errors
    ///
    /// Those of the RPC, and `Unavailable` if no endpoint answers within the time limit. The limit
    /// covers connecting and the TLS handshake.
    pub async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Error> {
        self.0.call(request).await
    }

    /// Checks by `grpc.health.v1` whether any instance serves. Sends no token, and so says nothing
    /// about this client's token.
    ///
    /// # Errors
    ///
    /// If no instance serves: the reason of the last one.
    pub async fn health(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.0.reads.total;
        let endpoints = self.0.balance.endpoints();
        let mut last = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            // The time that is left is shared equally.
            let shares = u32::try_from(endpoints.len() - index).unwrap_or(u32::MAX);
            let limit = deadline.saturating_duration_since(Instant::now()) / shares;
            match check_health(endpoint, limit).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unavailable("no endpoint")))
    }
}

async fn check_health(endpoint: &Endpoint, limit: Duration) -> Result<(), Error> {
    let mut health = HealthClient::new(endpoint.channel());
    let url = &endpoint.url;
    match timeout(limit, health.check(HealthCheckRequest::default())).await {
        Ok(Ok(response)) if response.get_ref().status() == ServingStatus::Serving => Ok(()),
        Ok(Ok(response)) => Err(Error {
            reason: Some(response.get_ref().status().as_str_name().to_owned()),
            ..Error::unavailable(format!(
                "{url}: the instance is stopping, or cannot prove that its knowledge is fresh"
            ))
        }),
        Ok(Err(status)) => Err(Error::from_status(&status, url, limit)),
        Err(_) => Err(Error::no_response(url, limit)),
    }
}
