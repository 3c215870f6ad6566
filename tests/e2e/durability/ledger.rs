//! What a caller knows about its keys: its requests, and the acknowledged changes.

use std::collections::BTreeMap;

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::Client;
use keyward_testkit::requests::{bare, changing, replacing};

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
        let key = v1::ApiKey {
            metadata: note(),
            ..bare(&id)
        };
        client.send(changing(key, ["metadata"])).await.ok()?;
        self.noted = Step::Acknowledged(());
        self.replaced = Step::Asked;
        let answer = client.send(replacing(&id)).await.ok()?;
        self.replaced = Step::Acknowledged((answer.replacement?.key_id, answer.api_key));
        Some(())
    }

    pub(crate) fn is_replaced(&self) -> bool {
        matches!(self.replaced, Step::Acknowledged(_))
    }

    /// Panics unless the service knows every acknowledged change, and each other change completely
    /// or not at all.
    pub(crate) async fn check(&self, client: &Client) {
        let keys = client.list(&self.account).await.unwrap();
        let Step::Acknowledged((id, text)) = &self.issued else {
            assert!(keys.len() <= 1, "{self:?}: {keys:?}");
            return;
        };
        let first = keys
            .iter()
            .find(|key| key.key_id == *id)
            .unwrap_or_else(|| panic!("{self:?} is lost"));
        assert_eq!(&client.get(id).await.unwrap(), first);
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
                assert_eq!(
                    client.verify_strongly(text).await.unwrap(),
                    Verdict::Valid,
                    "{self:?}"
                );
            }
            (Step::Asked, Some(successor)) => {
                assert_eq!(successor.state(), v1::State::Active, "{keys:?}");
                assert_eq!(
                    client.verify_strongly(text).await.unwrap(),
                    Verdict::Revoked,
                    "{self:?}"
                );
            }
            (Step::Acknowledged((id, next)), Some(successor)) => {
                assert_eq!((keys.len(), &successor.key_id), (2, id), "{keys:?}");
                assert_eq!(
                    client.verify_strongly(text).await.unwrap(),
                    Verdict::Revoked,
                    "{self:?}"
                );
                assert_eq!(
                    client.verify_strongly(next).await.unwrap(),
                    Verdict::Valid,
                    "{self:?}"
                );
            }
            (step, found) => panic!("{step:?}, and there is {found:?}"),
        }
    }
}
