//! Builds the requests of the verbs for keys from their arguments.

use std::io::Read;
use std::time::{Duration, SystemTime};

use keyward_proto::v1::{
    ApiKey, Consistency, GetRequest, IssueRequest, RevokeRequest, UpdateRequest, VerifyRequest,
};
use prost_types::{FieldMask, Timestamp};

use super::Failure;
use super::args;
use super::input::{KeyText, id};

pub(super) fn issue_request(args: &args::Issue) -> IssueRequest {
    IssueRequest {
        account_id: args.account.clone(),
        name: args.name.clone().unwrap_or_default(),
        scopes: args.scope.clone(),
        metadata: args.metadata.iter().cloned().collect(),
        allowed_cidrs: args.cidr.clone(),
        recoverable: args.recoverable.then_some(true),
        expire_time: args.expire_time,
        ttl: args.ttl,
    }
}

pub(super) fn get_request(args: &args::Get, input: &mut dyn Read) -> Result<GetRequest, Failure> {
    Ok(GetRequest {
        key_id: target_id("get", args.key_id.as_deref())?,
        api_key: target_key(args.key.as_ref(), input)?,
    })
}

pub(super) fn revoke_request(
    args: &args::Revoke,
    input: &mut dyn Read,
) -> Result<RevokeRequest, Failure> {
    Ok(RevokeRequest {
        key_id: target_id("revoke", args.key_id.as_deref())?,
        api_key: target_key(args.key.as_ref(), input)?,
        account_id: args.account.clone().unwrap_or_default(),
        replace: args.replace,
        grace: args.grace,
        reason: args.reason.clone(),
    })
}

/// The mask names exactly the fields that the arguments set.
pub(super) fn update_request(args: &args::Update) -> Result<UpdateRequest, Failure> {
    let expire_time = match args.ttl {
        Some(ttl) => Some(from_now(ttl)?),
        None => args.expire_time,
    };
    let given = [
        ("scopes", !args.scope.is_empty() || args.clear_scopes),
        ("metadata", !args.metadata.is_empty() || args.clear_metadata),
        ("expire_time", expire_time.is_some() || args.never_expires),
        ("allowed_cidrs", !args.cidr.is_empty() || args.clear_cidrs),
        ("disabled", args.disable || args.enable),
    ];
    let paths: Vec<_> = given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(path, _)| path.to_owned())
        .collect();
    if paths.is_empty() {
        return Err(Failure::Usage(
            "no change was given; see keyward update --help".into(),
        ));
    }
    Ok(UpdateRequest {
        key: Some(ApiKey {
            key_id: key_id_of("get", &args.key_id)?,
            scopes: args.scope.clone(),
            metadata: args.metadata.iter().cloned().collect(),
            allowed_cidrs: args.cidr.clone(),
            disabled: args.disable,
            expire_time,
            ..ApiKey::default()
        }),
        update_mask: Some(FieldMask { paths }),
    })
}

pub(super) fn verify_request(
    args: &args::Verify,
    input: &mut dyn Read,
) -> Result<VerifyRequest, Failure> {
    let consistency = if args.strong {
        Consistency::Strong
    } else {
        Consistency::Default
    };
    Ok(VerifyRequest {
        api_key: args.key.read_any(input)?.into_exposed(),
        required_scopes: args.scope.clone(),
        client_ip: args.client_ip.clone(),
        consistency: consistency.into(),
        want_cache_entry: false,
    })
}

/// The KEY_ID, if it is the target; otherwise empty.
fn target_id(verb: &str, id: Option<&str>) -> Result<String, Failure> {
    id.map_or(Ok(String::new()), |id| key_id_of(verb, id))
}

/// The text of the key, if it is the target; otherwise empty.
fn target_key(key: Option<&KeyText>, input: &mut dyn Read) -> Result<String, Failure> {
    key.map_or(Ok(String::new()), |key| Ok(key.read(input)?.into_exposed()))
}

/// Checks a KEY_ID. If the user has the key's text instead, `keyward VERB --key -` accepts it.
fn key_id_of(verb: &str, text: &str) -> Result<String, Failure> {
    let advice = format!(
        "; if you have the key itself, run `keyward {verb} --key -` and send the key on stdin"
    );
    id("KEY_ID", text, &advice)
}

fn from_now(ttl: Duration) -> Result<Timestamp, Failure> {
    now()
        .checked_add(ttl)
        .map(Timestamp::from)
        .ok_or_else(|| Failure::Usage("--ttl must be a shorter duration".into()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command uses the clock of its machine"
)]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
