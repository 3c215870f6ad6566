//! The ways to end a key, and what a failed call means.

use std::error::Error;
use std::time::{Duration, SystemTime};

use keyward_proto::v1::RevokeRequest;
use tonic::{Code, Status};

use crate::Client;
use crate::deadline::{PATIENCE, now};
use crate::requests::{by_account, by_id, by_text, replacing};

/// The grace of [`End::Graceful`].
const GRACE: Duration = Duration::from_millis(60);
/// The pause before a call is repeated.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A key and its account.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Its account.
    pub account: String,
}

/// How a key ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Revoked by its id.
    ById,
    /// Revoked by its text.
    ByText,
    /// Revoked with its account.
    ByAccount,
    /// Revoked, with a successor.
    Replaced,
    /// Disabled.
    Disabled,
    /// Revoked by its id, after a grace.
    Graceful,
}

impl End {
    /// Every way.
    pub const ALL: &[Self] = &[
        Self::ById,
        Self::Replaced,
        Self::ByText,
        Self::Disabled,
        Self::ByAccount,
        Self::Graceful,
    ];
    /// The ways that end a key when the call returns.
    pub const AT_ONCE: &[Self] = Self::ALL.split_at(5).0;

    /// One call that ends `key`. Returns how long it lives after the return, and its successor if
    /// there is one whose secret was returned.
    pub(super) async fn call(
        self,
        client: &Client,
        key: &Key,
    ) -> Result<(Duration, Option<Key>), Status> {
        let request = match self {
            Self::ById => by_id(&key.id),
            Self::ByText => by_text(&key.text),
            Self::ByAccount => by_account(&key.account),
            Self::Replaced => replacing(&key.id),
            Self::Graceful => graceful(&key.id, GRACE),
            Self::Disabled => {
                client.disable(&key.id, true).await?;
                return Ok((Duration::ZERO, None));
            }
        };
        let is_graceful = request.grace.is_some();
        let answer = client.send(request).await?;
        let end = answer.revoke_time.filter(|_| is_graceful);
        let text = answer.api_key;
        let successor = answer.replacement.filter(|_| !text.is_empty());
        let successor = successor.map(|successor| Key {
            id: successor.key_id,
            text,
            account: key.account.clone(),
        });
        Ok((end.map_or(Duration::ZERO, left_until), successor))
    }
}

/// Revokes one key by its id, after a grace.
pub fn graceful(key_id: &str, grace: Duration) -> RevokeRequest {
    let grace = prost_types::Duration::try_from(grace).expect("a short time");
    RevokeRequest {
        grace: Some(grace),
        ..by_id(key_id)
    }
}

/// How long until the wall clock shows `end`; a millisecond more for clocks at other rates.
#[expect(
    clippy::disallowed_methods,
    reason = "the end of a grace is a time on the wall"
)]
pub fn left_until(end: prost_types::Timestamp) -> Duration {
    let end = SystemTime::try_from(end).expect("a time of this age");
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    left + Duration::from_millis(1)
}

/// Whether the call had no answer because the connection failed.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the service answered UNAVAILABLE.
pub fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable && !is_broken(status)
}

/// Repeats a call while the service is UNAVAILABLE, because on a busy machine a heartbeat may be
/// late. Returns the final answer.
///
/// # Panics
///
/// The call fails in another way, or the service stays UNAVAILABLE.
pub async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> T {
    let begun = now();
    loop {
        match call().await {
            Err(status) if is_unavailable(&status) && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Ok(answer) => return answer,
            Err(status) => panic!("{status:?}"),
        }
    }
}
