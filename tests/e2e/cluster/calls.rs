//! The ways to end a key, and what a failed call means.

use std::error::Error;

use keyward_testkit::Client;
use keyward_testkit::requests::{by_account, by_id, by_text, replacing};
use tonic::{Code, Status};

/// A key, and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) account: String,
}

/// How a key ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    ById,
    ByText,
    ByAccount,
    Replaced,
    Disabled,
}

impl End {
    pub(crate) const ALL: [Self; 5] = [
        Self::ById,
        Self::Replaced,
        Self::ByText,
        Self::Disabled,
        Self::ByAccount,
    ];

    /// One call that ends `key`: its successor, if there is one whose secret was told.
    pub(crate) async fn call(self, client: &Client, key: &Key) -> Result<Option<Key>, Status> {
        let request = match self {
            Self::ById => by_id(&key.id),
            Self::Replaced => replacing(&key.id),
            Self::ByText => by_text(&key.text),
            Self::ByAccount => by_account(&key.account),
            Self::Disabled => return client.disable(&key.id, true).await.map(|_| None),
        };
        let answer = client.send(request).await?;
        let text = answer.api_key;
        let successor = answer.replacement.filter(|_| !text.is_empty());
        Ok(successor.map(|successor| Key {
            id: successor.key_id,
            text,
            account: key.account.clone(),
        }))
    }
}

/// Whether the call had no answer because the connection failed.
pub(crate) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the service answered UNAVAILABLE.
pub(crate) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable && !is_broken(status)
}

/// Repeats a call while the service is UNAVAILABLE, because on a busy machine a heartbeat may be
/// late. Returns the final answer.
pub(crate) async fn patiently<T>(call: impl AsyncFn() -> Result<T, Status>) -> T {
    for _ in 0..50 {
        match call().await {
            Err(status) if is_unavailable(&status) => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            answer => return answer.unwrap(),
        }
    }
    panic!("UNAVAILABLE for ever");
}
