//! Keyward, as the bot asks it: two calls, Issue and Revoke, counted and bounded. More the bot's
//! token does not allow, and more is not needed: each is safe to repeat, and each answers with the
//! state as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward_client::{Client, Error, ErrorKind, v1};
use tokio::time::Instant;
use uuid::Uuid;

use crate::metrics::Metrics;

/// Kept with a key that a user has revoked.
const REASON: &str = "replaced by its user in Telegram";

/// Somebody looks at the screen: a Revoke may take its time, this may not.
const ISSUING: Duration = Duration::from_secs(10);

/// Keyward, and which slot of an account the bot shows.
pub struct Authority {
    /// The way there.
    pub client: Client,
    /// The slot of each account.
    pub slot: String,
    /// What a key that is made shall be allowed to do.
    pub scopes: Vec<String>,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl Authority {
    /// The key of the account as it is now; made if there is none.
    ///
    /// # Errors
    ///
    /// Those of Issue.
    pub async fn present(&self, account: &str) -> Result<v1::IssueResponse, Error> {
        let request = v1::IssueRequest {
            account_id: account.to_owned(),
            name: self.slot.clone(),
            scopes: self.scopes.clone(),
            recoverable: Some(true),
            ..Default::default()
        };
        let call = tokio::time::timeout(ISSUING, self.client.issue(request));
        let call = async { call.await.unwrap_or_else(|_| Err(no_answer())) };
        self.counted("Issue", call).await
    }

    /// Revokes the key and makes its successor. Repeated, it is the same revocation.
    ///
    /// # Errors
    ///
    /// Those of Revoke.
    pub async fn replace(&self, key_id: Uuid) -> Result<v1::RevokeResponse, Error> {
        let request = v1::RevokeRequest {
            target: Some(v1::revoke_request::Target::KeyId(key_id.to_string())),
            replace: true,
            reason: REASON.to_owned(),
            ..Default::default()
        };
        self.counted("Revoke", self.client.revoke(request)).await
    }

    async fn counted<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let answer = call.await;
        let outcome = answer.as_ref().err().map_or("OK", outcome);
        self.metrics.keyward(method, outcome, begun.elapsed());
        match &answer {
            // The deployment is wrong, and nobody but its operator can tell.
            Err(error) if outcome == "fault" => {
                tracing::error!(%error, method, "Keyward refuses the bot")
            }
            Err(error) => tracing::warn!(%error, method, "a call to Keyward failed"),
            Ok(_) => {}
        }
        answer
    }
}

fn no_answer() -> Error {
    Error {
        kind: ErrorKind::Unavailable,
        reason: None,
        message: format!("no answer within {ISSUING:?}"),
        metadata: HashMap::new(),
        retry_after: None,
    }
}

/// A few words that are known, so that no label comes from outside.
fn outcome(error: &Error) -> &'static str {
    const KNOWN: [&str; 7] = [
        "NOT_FRESH",
        "STORE_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "REVOKE_UNCONFIRMED",
        "OVERLOADED",
        "KEY_EXPIRED",
        "KEY_NOT_FOUND",
    ];
    let reason = error.reason.as_deref().unwrap_or_default();
    let known = KNOWN.into_iter().find(|known| *known == reason);
    known.unwrap_or(match error.kind {
        ErrorKind::Unavailable => "unavailable",
        _ => "fault",
    })
}
