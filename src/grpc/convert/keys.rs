//! Converts the public data of keys, and the query of a list of them.

use keyward_proto::v1;

use super::{duration, optional, page, time};
use crate::service::{KeyUses, Page, PageQuery, ServiceError};
use keyward_core::fence::state_at;
use keyward_core::key::{AccountId, FieldError, KeyRecord, KeyState, Reason, SlotName, Timestamp};
use keyward_store::ListKeys;

/// The keys of a page.
pub(in crate::grpc) fn api_keys(page: &Page<KeyRecord>, uses: &KeyUses) -> Vec<v1::ApiKey> {
    let keys = page.items.iter();
    keys.map(|record| api_key(record, uses, page.at)).collect()
}

/// The public data of a key, with its state at `at`, the store's time. `uses` has its use, if any.
pub(in crate::grpc) fn api_key(record: &KeyRecord, uses: &KeyUses, at: Timestamp) -> v1::ApiKey {
    let usage = uses.get(&record.id).copied().unwrap_or_default();
    let state = match state_at(record, at) {
        KeyState::Active => v1::State::Active,
        KeyState::Disabled => v1::State::Disabled,
        KeyState::Expired => v1::State::Expired,
        KeyState::Revoked => v1::State::Revoked,
    };
    v1::ApiKey {
        key_id: record.id.to_string(),
        account_id: record.account.to_string(),
        name: record.name.to_string(),
        hint: record.hint.0.clone(),
        scopes: record.scopes.to_vec(),
        metadata: record.metadata.entries().clone(),
        allowed_cidrs: record.networks.to_texts(),
        recoverable: record.recoverable,
        disabled: record.disabled,
        create_time: Some(time(record.create_time)),
        expire_time: record.expire_time.map(time),
        revoke_time: record.revoke_time.map(time),
        revoke_reason: record
            .revoke_reason
            .as_ref()
            .map(Reason::to_string)
            .unwrap_or_default(),
        replaced_by: record
            .replaced_by
            .map(|id| id.to_string())
            .unwrap_or_default(),
        state: state.into(),
        revision: record.revision,
        last_use_time: usage.last_use.map(time),
        refused_count: usage.refused,
        last_refused_time: usage.last_refused.map(time),
    }
}

pub(in crate::grpc) fn list(
    request: v1::ListRequest,
) -> Result<(ListKeys, PageQuery), ServiceError> {
    let account = match (request.account_id.is_empty(), request.all_accounts) {
        (false, false) => Some(AccountId::new("account_id", request.account_id)?),
        (true, true) => None,
        _ => return Err(ServiceError::NotOne(&["account_id", "all_accounts"])),
    };
    let state = match v1::State::try_from(request.state) {
        Ok(v1::State::Unspecified) => None,
        Ok(v1::State::Active) => Some(KeyState::Active),
        Ok(v1::State::Disabled) => Some(KeyState::Disabled),
        Ok(v1::State::Expired) => Some(KeyState::Expired),
        Ok(v1::State::Revoked) => Some(KeyState::Revoked),
        Err(_) => {
            let reason = format!("{} is not a defined value", request.state);
            return Err(FieldError::new("state", reason).into());
        }
    };
    let least = |field, least: Option<_>| least.map(|least| duration(field, least)).transpose();
    let list = ListKeys {
        account,
        include_revoked: request.include_revoked,
        state,
        name_prefix: optional(request.name_prefix, |start| {
            SlotName::new("name_prefix", start)
        })?,
        older_than: least("older_than", request.older_than)?,
        unused_for: least("unused_for", request.unused_for)?,
        ..ListKeys::default()
    };
    Ok((list, page(request.page_size, request.page_token)))
}
