//! Values and commands in a few words.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::key::{
    AccountId, BatchId, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes, SlotName, TokenRecord,
};
use keyward_crypto::{Digest, Sealed};
use keyward_store::{
    Actor, Found, KeyChanges, KeyTarget, Origin, Revocation, Selection, Store, Successor,
};

pub(crate) fn actor() -> Actor {
    Actor {
        token: Some(KeyId::from_bytes([0xac; 16])),
        name: "bot".to_owned(),
        origin: Origin::default(),
    }
}

pub(crate) fn account(text: &str) -> AccountId {
    AccountId::new("account_id", text.to_owned()).unwrap()
}

pub(crate) fn slot(text: &str) -> SlotName {
    SlotName::new("name", text.to_owned()).unwrap()
}

pub(crate) fn reason(text: &str) -> Option<Reason> {
    Some(Reason::new("reason", text.to_owned()).unwrap())
}

pub(crate) fn scopes(texts: &[&str]) -> Scopes {
    Scopes::new("scopes", owned(texts)).unwrap()
}

pub(crate) fn metadata(entries: &[(&str, &str)]) -> Metadata {
    let entries = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Metadata::new("metadata", entries.collect::<BTreeMap<_, _>>()).unwrap()
}

pub(crate) fn networks(texts: &[&str]) -> Networks {
    Networks::new("allowed_cidrs", &owned(texts)).unwrap()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A sealed copy. Stores do not look inside.
pub(crate) fn sealed(byte: u8) -> Sealed {
    Sealed::from_bytes(vec![byte; 96])
}

/// Sets `disabled`.
pub(crate) fn disabled(disabled: bool) -> KeyChanges {
    KeyChanges {
        disabled: Some(disabled),
        ..KeyChanges::default()
    }
}

/// Revokes one key without grace.
pub(crate) fn kill(id: KeyId) -> Revocation {
    end(id, Duration::ZERO)
}

/// Revokes one key with a grace.
pub(crate) fn end(id: KeyId, grace: Duration) -> Revocation {
    Revocation::Key {
        target: KeyTarget::Id(id),
        successor: None,
        grace,
        reason: None,
    }
}

/// Replaces one key with a grace.
pub(crate) fn replace(id: KeyId, successor: Successor, grace: Duration) -> Revocation {
    Revocation::Key {
        target: KeyTarget::Id(id),
        successor: Some(successor),
        grace,
        reason: None,
    }
}

/// Revokes all keys of an account.
pub(crate) fn kill_all(account: &str) -> Revocation {
    close(account, None)
}

/// Revokes all keys of an account for a reason.
pub(crate) fn close(account: &str, reason: Option<Reason>) -> Revocation {
    Revocation::Selection {
        selection: Selection::Account(self::account(account)),
        reason,
    }
}

/// The name of an import.
pub(crate) fn batch(number: u8) -> BatchId {
    BatchId::from_bytes([number; 16])
}

/// Finds one key.
pub(crate) async fn find(
    store: &dyn Store,
    digest: &Digest,
) -> keyward_store::Result<Found<KeyRecord>> {
    let mut found = store.find_keys(std::slice::from_ref(digest)).await?;
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}

/// Finds one token.
pub(crate) async fn find_token(
    store: &dyn Store,
    digest: &Digest,
) -> keyward_store::Result<Found<TokenRecord>> {
    let mut found = store.find_tokens(std::slice::from_ref(digest)).await?;
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}
