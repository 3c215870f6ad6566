//! The verbs that call the service about its keyring, and the erasure of an account.

use keyward_proto::v1::{
    ActivateKeyringKeyRequest, EraseAccountRequest, EraseAccountResponse, GetKeyringStatusRequest,
    KeyringKey, KeyringKeyKind, KeyringKeyState, RetireKeyringKeyRequest,
};
use serde_json::{Value, json};

use super::Failure;
use super::args::{self, AccountCall, KeyringCall, KeyringKind};
use super::client::Service;
use super::render::{Field as _, Report, enum_name, present};

pub(super) async fn call(call: &KeyringCall, service: &Service) -> Result<Report, Failure> {
    Ok(match call {
        KeyringCall::Status => {
            let response = service.call(GetKeyringStatusRequest {}).await?;
            status(&response.keys)
        }
        KeyringCall::Activate(key) => {
            let (kind, number) = name(key);
            let request = ActivateKeyringKeyRequest { kind, number };
            service.call(request).await?;
            done(
                key,
                "is active; each instance follows within about a second",
            )
        }
        KeyringCall::Retire(key) => {
            let (kind, number) = name(key);
            let request = RetireKeyringKeyRequest { kind, number };
            service.call(request).await?;
            done(key, "is retired; you can delete its file on every instance")
        }
    })
}

pub(super) async fn account(call: &AccountCall, service: &Service) -> Result<Report, Failure> {
    let AccountCall::Erase { account } = call;
    let account_id = account.clone();
    let response = service.call(EraseAccountRequest { account_id }).await?;
    Ok(erased(&response))
}

fn name(key: &args::KeyringKey) -> (i32, u32) {
    let kind = match key.kind {
        KeyringKind::Generation => KeyringKeyKind::Generation,
        KeyringKind::Seal => KeyringKeyKind::Seal,
        KeyringKind::Foreign => KeyringKeyKind::Foreign,
        KeyringKind::Import => KeyringKeyKind::Import,
        KeyringKind::Audit => KeyringKeyKind::Audit,
    };
    (kind.into(), key.number)
}

fn done(key: &args::KeyringKey, what: &str) -> Report {
    let kind = KeyringKeyKind::try_from(name(key).0).map(|kind| kind.as_str_name());
    let kind = enum_name(kind, "KEYRING_KEY_KIND_");
    let text = format!("{}-{} {what}", kind.to_lowercase(), key.number);
    Report {
        done: Some(text.clone()),
        ..Report::default()
            .text(&format!("{text}\n"))
            .json("kind", json!(kind))
            .json("number", json!(key.number))
    }
}

fn status(keys: &[KeyringKey]) -> Report {
    let columns = [
        "kind",
        "number",
        "state",
        "live_keys",
        "live_tokens",
        "sealed_copies",
        "audit_seals",
        "loaded_by",
        "missing_at",
    ];
    Report::default().table("keys", &columns, keys.iter().map(object).collect())
}

fn object(key: &KeyringKey) -> Value {
    let kind = KeyringKeyKind::try_from(key.kind).map(|kind| kind.as_str_name());
    let state = KeyringKeyState::try_from(key.state).map(|state| state.as_str_name());
    json!({
        "kind": enum_name(kind, "KEYRING_KEY_KIND_"),
        "number": key.number,
        "state": enum_name(state, "KEYRING_KEY_STATE_"),
        "loaded_by": key.loaded_by,
        "missing_at": key.missing_at,
        "live_keys": key.live_keys,
        "live_tokens": key.live_tokens,
        "sealed_copies": key.sealed_copies,
        "audit_seals": key.audit_seals,
    })
}

fn erased(response: &EraseAccountResponse) -> Report {
    let report = Report::default()
        .fields(vec![
            ("pseudonym", response.pseudonym.json()),
            ("revoked_count", response.revoked_count.json()),
            ("erased_count", response.erased_count.json()),
        ])
        .fields(vec![
            ("confirmed_instances", response.confirmed_instances.json()),
            ("waited_out_instances", response.waited_out_instances.json()),
        ])
        .json("revision", json!(response.revision));
    Report {
        note: present(&response.pseudonym)
            .is_none()
            .then(|| "the account has no keys; nothing was erased".to_owned()),
        done: Some("the account is erased".to_owned()),
        ..report
    }
}
