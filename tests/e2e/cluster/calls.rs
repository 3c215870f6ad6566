//! The ways to end a key, and how a call that fails is to be taken.

use std::error::Error;

use keyward_proto::v1::{self, RevokeRequest, revoke_request::Target};
use keyward_testkit::Client;
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
        let (target, replace) = match self {
            Self::ById => (Target::KeyId(key.id.clone()), false),
            Self::Replaced => (Target::KeyId(key.id.clone()), true),
            Self::ByText => (Target::ApiKey(key.text.clone()), false),
            Self::ByAccount => (Target::AccountId(key.account.clone()), false),
            Self::Disabled => return disable(client, &key.id).await.map(|()| None),
        };
        let request = RevokeRequest {
            target: Some(target),
            replace,
            ..Default::default()
        };
        let answer = client.keys.clone().revoke(request).await?.into_inner();
        let text = answer.api_key;
        let successor = answer.replacement.filter(|_| !text.is_empty());
        Ok(successor.map(|successor| Key {
            id: successor.key_id,
            text,
            account: key.account.clone(),
        }))
    }
}

async fn disable(client: &Client, id: &str) -> Result<(), Status> {
    let request = v1::UpdateRequest {
        key: Some(v1::ApiKey {
            key_id: id.to_owned(),
            disabled: true,
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["disabled".to_owned()],
        }),
    };
    client.keys.clone().update(request).await.map(drop)
}

/// Whether the call had no answer: the connection broke, or was never made.
pub(crate) fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// Whether the service said that it cannot tell now.
pub(crate) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable && !is_broken(status)
}

/// Makes a call again and again while the service says that it cannot tell now: on a busy machine an
/// instance may be late with its heartbeat. What it says in the end.
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
