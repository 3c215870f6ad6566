//! The verbs on keys: their arguments as requests, the calls, and the answers as reports.

use std::io::Read;
use std::time::Duration;

use keyward_proto::v1::{
    ApiKey, Consistency, GetRequest, IssueRequest, ListRequest, RevokeRequest, UpdateRequest,
    VerifyRequest, get_request, revoke_request,
};
use prost_types::{FieldMask, Timestamp};

use super::Failure;
use super::args;
use super::client::Client;
use super::input::id;
use super::output;
use super::render::Report;

pub(super) fn issue_request(args: &args::Issue) -> Result<IssueRequest, Failure> {
    Ok(IssueRequest {
        account_id: args.account.clone(),
        name: args.name.clone().unwrap_or_default(),
        scopes: args.scope.clone(),
        metadata: args.metadata.iter().cloned().collect(),
        allowed_cidrs: args.cidr.clone(),
        recoverable: args.recoverable.then_some(true),
        expire_time: args.expire_time,
        ttl: args.ttl.map(|ttl| duration("--ttl", ttl)).transpose()?,
    })
}

pub(super) fn get_request(args: &args::Get, input: &mut dyn Read) -> Result<GetRequest, Failure> {
    let target = match (&args.key_id, &args.key) {
        (Some(key_id), _) => get_request::Target::KeyId(id("KEY_ID", key_id)?),
        (None, Some(key)) => get_request::Target::ApiKey(key.read(input)?.into_exposed()),
        (None, None) => return Err(Failure::Usage("takes KEY_ID or --key".into())),
    };
    Ok(GetRequest {
        target: Some(target),
    })
}

pub(super) fn revoke_request(
    args: &args::Revoke,
    input: &mut dyn Read,
) -> Result<RevokeRequest, Failure> {
    let target = match (&args.key_id, &args.key, &args.account) {
        (Some(key_id), ..) => revoke_request::Target::KeyId(id("KEY_ID", key_id)?),
        (None, Some(key), _) => revoke_request::Target::ApiKey(key.read(input)?.into_exposed()),
        (None, None, Some(account)) => revoke_request::Target::AccountId(account.clone()),
        (None, None, None) => {
            return Err(Failure::Usage("takes KEY_ID, --key or --account".into()));
        }
    };
    Ok(RevokeRequest {
        target: Some(target),
        replace: args.replace,
        grace: args
            .grace
            .map(|grace| duration("--grace", grace))
            .transpose()?,
        reason: args.reason.clone(),
    })
}

/// Names in the mask what was given, and nothing else.
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
            "nothing to change was given; see keyward update --help".into(),
        ));
    }
    Ok(UpdateRequest {
        key: Some(ApiKey {
            key_id: id("KEY_ID", &args.key_id)?,
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
        api_key: args.key.read(input)?.into_exposed(),
        required_scopes: args.scope.clone(),
        client_ip: args.client_ip.clone(),
        consistency: consistency.into(),
    })
}

impl Client {
    pub(super) async fn issue(&mut self, request: IssueRequest) -> Result<Report, Failure> {
        let answer = self
            .keys
            .issue(request)
            .await
            .map_err(|status| self.explain(&status))?;
        Ok(output::issued(&answer.into_inner()))
    }

    pub(super) async fn get(&mut self, request: GetRequest) -> Result<Report, Failure> {
        let answer = self
            .keys
            .get(request)
            .await
            .map_err(|status| self.explain(&status))?;
        Ok(output::shown(answer.into_inner().key.as_ref()))
    }

    /// One page if its token was given, otherwise all.
    pub(super) async fn list(&mut self, args: &args::List) -> Result<Report, Failure> {
        let mut request = ListRequest {
            account_id: args.account.clone(),
            include_revoked: args.page.all,
            page_size: args.page.page_size,
            page_token: args.page.page_token.clone().unwrap_or_default(),
        };
        let mut keys = Vec::new();
        loop {
            let answer = self.keys.list(request.clone()).await;
            let page = answer.map_err(|status| self.explain(&status))?.into_inner();
            keys.extend(page.keys);
            if args.page.page_token.is_some() || page.next_page_token.is_empty() {
                return Ok(output::listed(&keys, &page.next_page_token));
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(super) async fn revoke(&mut self, request: RevokeRequest) -> Result<Report, Failure> {
        let replace = request.replace;
        let answer = self
            .keys
            .revoke(request)
            .await
            .map_err(|status| self.explain(&status))?
            .into_inner();
        Ok(Report {
            note: replace.then(|| output::unreplaced(&answer)).flatten(),
            ..output::revoked(&answer)
        })
    }

    pub(super) async fn update(&mut self, request: UpdateRequest) -> Result<Report, Failure> {
        let answer = self
            .keys
            .update(request)
            .await
            .map_err(|status| self.explain(&status))?;
        Ok(output::updated(&answer.into_inner()))
    }

    pub(super) async fn verify(&mut self, request: VerifyRequest) -> Result<Report, Failure> {
        let answer = self
            .keys
            .verify(request)
            .await
            .map_err(|status| self.explain(&status))?;
        Ok(output::judged(&answer.into_inner()))
    }
}

fn duration(flag: &str, duration: Duration) -> Result<prost_types::Duration, Failure> {
    prost_types::Duration::try_from(duration)
        .map_err(|_| Failure::Usage(format!("{flag} takes a shorter duration")))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command has no clock but that of its machine"
)]
fn from_now(ttl: Duration) -> Result<Timestamp, Failure> {
    std::time::SystemTime::now()
        .checked_add(ttl)
        .map(Timestamp::from)
        .ok_or_else(|| Failure::Usage("--ttl takes a shorter duration".into()))
}
