//! What a caller knows of its keys: what it asked for, and what was acknowledged.

use std::collections::BTreeMap;

use keyward_proto::v1::{self, Consistency, Verdict, revoke_request::Target};
use keyward_testkit::Client;

/// A key's public name and its text.
type Secret = (String, String);

/// One change that a caller wants.
#[derive(Debug)]
enum Step<T> {
    NotAsked,
    /// No answer came: it was made or it was not.
    Asked,
    Acknowledged(T),
}

/// A slot with its key: issued, then changed, then replaced.
#[derive(Debug)]
pub(crate) struct Slot {
    account: String,
    issued: Step<Secret>,
    noted: Step<()>,
    replaced: Step<Secret>,
}

fn note() -> BTreeMap<String, String> {
    BTreeMap::from([("note".to_owned(), "kept".to_owned())])
}

/// Issues, changes and replaces keys, slot by slot, until a call is not answered.
pub(crate) async fn call_until_it_fails(client: Client, name: String) -> Vec<Slot> {
    let mut slots = Vec::new();
    for n in 0.. {
        let mut slot = Slot {
            account: format!("{name}-{n}"),
            issued: Step::Asked,
            noted: Step::NotAsked,
            replaced: Step::NotAsked,
        };
        let went_well = slot.fill(&client).await;
        slots.push(slot);
        if went_well.is_none() {
            break;
        }
    }
    slots
}

impl Slot {
    async fn fill(&mut self, client: &Client) -> Option<()> {
        let issued = client.issue(&self.account, "").await.ok()?;
        let id = issued.0.clone();
        self.issued = Step::Acknowledged(issued);
        self.noted = Step::Asked;
        let request = v1::UpdateRequest {
            key: Some(v1::ApiKey {
                key_id: id.clone(),
                metadata: note(),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["metadata".to_owned()],
            }),
        };
        client.keys.clone().update(request).await.ok()?;
        self.noted = Step::Acknowledged(());
        self.replaced = Step::Asked;
        let request = v1::RevokeRequest {
            target: Some(Target::KeyId(id)),
            replace: true,
            ..Default::default()
        };
        let answer = client.keys.clone().revoke(request).await.ok()?.into_inner();
        self.replaced = Step::Acknowledged((answer.replacement?.key_id, answer.api_key));
        Some(())
    }

    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self.replaced, Step::Acknowledged(_))
    }

    /// Panics unless the service knows all that was acknowledged, and the rest wholly or not.
    pub(crate) async fn check(&self, client: &Client) {
        let keys = self.list(client).await;
        let Step::Acknowledged((id, text)) = &self.issued else {
            assert!(keys.len() <= 1, "{self:?}: {keys:?}");
            return;
        };
        let first = keys
            .iter()
            .find(|key| key.key_id == *id)
            .unwrap_or_else(|| panic!("{self:?} is lost"));
        assert_eq!(get(client, id).await.as_ref(), Some(first));
        let noted = first.metadata == note();
        match self.noted {
            Step::NotAsked => assert!(first.metadata.is_empty(), "{first:?}"),
            Step::Asked => assert!(noted || first.metadata.is_empty(), "{first:?}"),
            Step::Acknowledged(()) => assert!(noted, "{self:?}: {first:?}"),
        }
        let successor = keys.iter().find(|key| key.key_id == first.replaced_by);
        match (&self.replaced, successor) {
            (Step::NotAsked | Step::Asked, None) => {
                assert_eq!(
                    (keys.len(), first.replaced_by.as_str()),
                    (1, ""),
                    "{keys:?}"
                );
                assert_eq!(verdict(client, text).await, Verdict::Valid, "{self:?}");
            }
            (Step::Asked, Some(successor)) => {
                assert_eq!(successor.state(), v1::State::Active, "{keys:?}");
                assert_eq!(verdict(client, text).await, Verdict::Revoked, "{self:?}");
            }
            (Step::Acknowledged((id, next)), Some(successor)) => {
                assert_eq!((keys.len(), &successor.key_id), (2, id), "{keys:?}");
                assert_eq!(verdict(client, text).await, Verdict::Revoked, "{self:?}");
                assert_eq!(verdict(client, next).await, Verdict::Valid, "{self:?}");
            }
            (step, found) => panic!("{step:?}, and there is {found:?}"),
        }
    }

    async fn list(&self, client: &Client) -> Vec<v1::ApiKey> {
        let request = v1::ListRequest {
            account_id: self.account.clone(),
            include_revoked: true,
            ..Default::default()
        };
        client
            .keys
            .clone()
            .list(request)
            .await
            .unwrap()
            .into_inner()
            .keys
    }
}

/// By a STRONG read.
async fn verdict(client: &Client, text: &str) -> Verdict {
    let request = v1::VerifyRequest {
        api_key: text.to_owned(),
        consistency: Consistency::Strong.into(),
        ..Default::default()
    };
    client
        .keys
        .clone()
        .verify(request)
        .await
        .unwrap()
        .get_ref()
        .verdict()
}

async fn get(client: &Client, id: &str) -> Option<v1::ApiKey> {
    let target = Some(v1::get_request::Target::KeyId(id.to_owned()));
    let answer = client.keys.clone().get(v1::GetRequest { target }).await;
    answer.unwrap().into_inner().key
}
