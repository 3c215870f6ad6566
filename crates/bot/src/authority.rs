//! The two calls to Keyward, Issue and Revoke, with timeouts and metrics. The roles of the bot's token
//! allow no others. Both are safe to repeat, and both return the current state.

use std::sync::Arc;
use std::time::Duration;

use keyward_client::{Client, Error, ErrorKind, v1};
use tokio::time::Instant;

use crate::account::Place;
use crate::answers::{Problem, REVEALS_EXHAUSTED};
use crate::callback::Revocation;
use crate::metrics::Metrics;

/// The reason in the audit of a key that its user has revoked.
const REASON: &str = "replaced by its user in Telegram";

/// Timeout of Issue, because the user waits for the screen. A Revoke may take longer.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keyward, with the scopes of the keys.
pub struct Authority {
    /// The client of Keyward.
    pub client: Client,
    /// The scopes of new keys.
    pub scopes: Vec<String>,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
}

impl Authority {
    /// The current key of the place. Keyward creates a missing one.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn issue(&self, place: &Place) -> Result<v1::IssueResponse, Problem> {
        let request = v1::IssueRequest {
            account_id: place.account.clone(),
            name: place.slot.clone(),
            scopes: self.scopes.clone(),
            recoverable: Some(true),
            ..Default::default()
        };
        let call = self.counted("Issue", self.client.issue(request));
        let Ok(answer) = tokio::time::timeout(ISSUE_TIMEOUT, call).await else {
            tracing::warn!("Keyward has not answered Issue within {ISSUE_TIMEOUT:?}");
            self.metrics.keyward("Issue", "unavailable", ISSUE_TIMEOUT);
            return Err(Problem::Unavailable);
        };
        answer.map_err(|error| Problem::of(&error))
    }

    /// Revokes the key and creates its successor. A repeated call is the same revocation.
    ///
    /// # Errors
    ///
    /// Those of Revoke.
    pub async fn replace(&self, of: Revocation) -> Result<v1::RevokeResponse, Error> {
        let seconds = i64::from(of.grace) * 3600;
        let request = v1::RevokeRequest {
            key_id: of.key_id.to_string(),
            replace: true,
            grace: (of.grace > 0).then_some(prost_types::Duration { seconds, nanos: 0 }),
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
        let start = Instant::now();
        let answer = call.await;
        let outcome = answer.as_ref().err().map_or("OK", outcome);
        self.metrics.keyward(method, outcome, start.elapsed());
        match &answer {
            // The deployment is wrong; only its operator can fix it.
            Err(error) if outcome == "fault" => {
                tracing::error!(%error, method, "Keyward refuses the bot; check the roles of its token and the settings")
            }
            Err(error) => tracing::warn!(%error, method, "a call to Keyward failed"),
            Ok(_) => {}
        }
        answer
    }
}

/// The label in metrics. It is one of a fixed list, so no label comes from outside.
fn outcome(error: &Error) -> &'static str {
    const KNOWN: [&str; 8] = [
        "NOT_FRESH",
        "STORE_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "REVOKE_UNCONFIRMED",
        "OVERLOADED",
        "KEY_EXPIRED",
        "KEY_NOT_FOUND",
        REVEALS_EXHAUSTED,
    ];
    let reason = error.reason.as_deref().unwrap_or_default();
    let known = KNOWN.into_iter().find(|known| *known == reason);
    known.unwrap_or(match error.kind {
        ErrorKind::Unavailable => "unavailable",
        _ => "fault",
    })
}
