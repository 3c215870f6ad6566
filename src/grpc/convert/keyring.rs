//! Converts the messages about the keyring and about erasures.

use keyward_proto::v1;

use super::Checked;
use crate::service::KeyringKey;
use keyward_core::key::{AccountId, FieldError};
use keyward_crypto::{KeyKind, KeyName};
use keyward_store::KnownState;

/// A request without fields.
pub(in crate::grpc) fn nothing<M>(_: M) -> Checked<()> {
    Ok(())
}

pub(in crate::grpc) fn key_to_activate(request: v1::ActivateKeyringKeyRequest) -> Checked<KeyName> {
    let name = key_name(request.kind, request.number)?;
    match name.kind {
        KeyKind::Generation | KeyKind::Seal | KeyKind::Audit => Ok(name),
        _ => {
            let reason = "must be a generation, a seal or an audit key";
            Err(FieldError::new("kind", reason))
        }
    }
}

pub(in crate::grpc) fn key_to_retire(request: v1::RetireKeyringKeyRequest) -> Checked<KeyName> {
    key_name(request.kind, request.number)
}

pub(in crate::grpc) fn account_to_erase(request: v1::EraseAccountRequest) -> Checked<AccountId> {
    AccountId::new("account_id", request.account_id)
}

fn key_name(kind: i32, number: u32) -> Checked<KeyName> {
    let kind = match v1::KeyringKeyKind::try_from(kind) {
        Ok(v1::KeyringKeyKind::Generation) => KeyKind::Generation,
        Ok(v1::KeyringKeyKind::Seal) => KeyKind::Seal,
        Ok(v1::KeyringKeyKind::Foreign) => KeyKind::Foreign,
        Ok(v1::KeyringKeyKind::Import) => KeyKind::Import,
        Ok(v1::KeyringKeyKind::Audit) => KeyKind::Audit,
        Ok(v1::KeyringKeyKind::Unspecified) | Err(_) => {
            let reason = format!("{kind} is not a kind of a key");
            return Err(FieldError::new("kind", reason));
        }
    };
    match number {
        0 => Err(FieldError::new("number", "must be at least 1")),
        number => Ok(KeyName { kind, number }),
    }
}

pub(in crate::grpc) fn keyring_key(key: KeyringKey) -> v1::KeyringKey {
    let kind = match key.name.kind {
        KeyKind::Generation => v1::KeyringKeyKind::Generation,
        KeyKind::Seal => v1::KeyringKeyKind::Seal,
        KeyKind::Foreign => v1::KeyringKeyKind::Foreign,
        KeyKind::Import => v1::KeyringKeyKind::Import,
        KeyKind::Audit => v1::KeyringKeyKind::Audit,
        // No store knows the keys of the cache.
        KeyKind::Cache => v1::KeyringKeyKind::Unspecified,
    };
    let state = match key.state {
        KnownState::Loaded => v1::KeyringKeyState::Loaded,
        KnownState::Active => v1::KeyringKeyState::Active,
        KnownState::Required => v1::KeyringKeyState::Required,
        KnownState::Retired => v1::KeyringKeyState::Retired,
    };
    v1::KeyringKey {
        kind: kind.into(),
        number: key.name.number,
        state: state.into(),
        loaded_by: key.loaded_by,
        missing_at: key.missing_at,
        live_keys: key.needs.keys,
        live_tokens: key.needs.tokens,
        sealed_copies: key.needs.copies,
        audit_seals: key.needs.seals,
    }
}
