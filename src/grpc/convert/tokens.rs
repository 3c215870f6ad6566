//! The messages about callers' tokens.

use keyward_proto::v1;

use super::{Checked, expiry, key_id, no_secret, optional, page, time};
use crate::service::{NewCaller, PageQuery};
use keyward_core::key::{FieldError, KeyId, Role, Roles, San, SlotName, TokenRecord};

fn in_api(role: Role) -> v1::Role {
    match role {
        Role::Issuer => v1::Role::Issuer,
        Role::Verifier => v1::Role::Verifier,
        Role::Revealer => v1::Role::Revealer,
        Role::Reader => v1::Role::Reader,
        Role::Editor => v1::Role::Editor,
        Role::Reporter => v1::Role::Reporter,
        Role::NearCache => v1::Role::NearCache,
        Role::Admin => v1::Role::Admin,
        Role::Auditor => v1::Role::Auditor,
    }
}

fn roles(values: &[i32]) -> Checked<Roles> {
    let role = |value: &i32| {
        let mut known = Role::ALL.into_iter();
        let role = known.find(|role| i32::from(in_api(*role)) == *value);
        let reason = || format!("contains {value}, which is not a role");
        role.ok_or_else(|| FieldError::new("roles", reason()))
    };
    values.iter().map(role).collect()
}

pub(in crate::grpc) fn new_token(request: v1::CreateTokenRequest) -> Checked<NewCaller> {
    no_secret("name", [&request.name])?;
    no_secret("san", [&request.san])?;
    Ok(NewCaller {
        name: SlotName::new("name", request.name)?,
        roles: roles(&request.roles)?,
        expiry: expiry(request.expire_time, request.ttl)?,
        san: optional(request.san, |san| San::new("san", &san))?,
    })
}

pub(in crate::grpc) fn list_tokens(request: v1::ListTokensRequest) -> Checked<(bool, PageQuery)> {
    let page = page(request.page_size, request.page_token);
    Ok((request.include_revoked, page))
}

pub(in crate::grpc) fn token_id(request: v1::RevokeTokenRequest) -> Checked<KeyId> {
    key_id("token_id", &request.token_id)
}

pub(in crate::grpc) fn caller_token(record: &TokenRecord) -> v1::CallerToken {
    let roles = record.roles.iter().map(in_api);
    v1::CallerToken {
        token_id: record.id.to_string(),
        name: record.name.to_string(),
        roles: roles.map(i32::from).collect(),
        create_time: Some(time(record.create_time)),
        revoke_time: record.revoke_time.map(time),
        revision: record.revision,
        expire_time: record.expire_time.map(time),
        san: record.san.as_ref().map(San::to_string).unwrap_or_default(),
    }
}
