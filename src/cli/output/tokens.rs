//! Formats the responses about callers' tokens.

use std::path::Path;

use keyward_proto::v1::{CallerToken, CreateTokenResponse, RevokeTokenResponse, Role};
use serde_json::{Value, json};

use crate::cli::render::{Field as _, Fields, Report, enum_name};

/// `file`: the file that holds the secret instead of the response.
pub(in crate::cli) fn token_created(response: &CreateTokenResponse, file: Option<&Path>) -> Report {
    let report = Report::default()
        .message("caller_token", response.caller_token.as_ref().map(token))
        .secret("token", &response.token);
    let done = response.caller_token.as_ref().map(|token| match file {
        Some(path) => format!("the token {} is in {}", token.token_id, path.display()),
        None if token.san.is_empty() => lost_token(token),
        None => format!(
            "the caller {} is known by a client certificate with the name {}",
            token.token_id, token.san
        ),
    });
    Report { done, ..report }
}

/// What to do about a token that was created and whose secret nobody has received.
pub(in crate::cli) fn lost_token(token: &CallerToken) -> String {
    let id = &token.token_id;
    format!(
        "the token {id} was created, and its secret cannot be shown again; run keyward token revoke \
         {id}, and create another"
    )
}

pub(in crate::cli) fn tokens_listed(tokens: &[CallerToken], next_page_token: &str) -> Report {
    let columns = [
        "token_id",
        "name",
        "roles",
        "san",
        "create_time",
        "expire_time",
        "revoke_time",
    ];
    let tokens = tokens.iter().map(token).map(Value::from_iter);
    Report::default()
        .table("caller_tokens", &columns, tokens.collect())
        .next_page(next_page_token)
}

pub(in crate::cli) fn token_revoked(response: &RevokeTokenResponse) -> Report {
    let report = Report::default()
        .message("caller_token", response.caller_token.as_ref().map(token))
        .fields(fields!(response, confirmed_instances, waited_out_instances))
        .json("revision", json!(response.revision));
    Report {
        done: Some("the revocation is in force".to_owned()),
        ..report
    }
}

fn token(token: &CallerToken) -> Fields {
    let role = |role: &i32| enum_name(Role::try_from(*role).map(|r| r.as_str_name()), "ROLE_");
    let roles: Vec<_> = token.roles.iter().map(role).collect();
    let mut fields = fields!(token, token_id, name);
    fields.push(("roles", json!(roles)));
    fields.extend(fields!(
        token,
        san,
        create_time,
        expire_time,
        revoke_time,
        revision
    ));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_shown_once() {
        let caller_token = CallerToken {
            name: "bot".into(),
            roles: vec![Role::Issuer.into(), Role::Revealer.into()],
            ..CallerToken::default()
        };
        let response = CreateTokenResponse {
            caller_token: Some(caller_token),
            token: "kwt_x".into(),
        };
        let report = token_created(&response, None);
        assert_eq!(report.text.matches("kwt_x").count(), 1);
        assert_eq!(report.json["token"], "kwt_x");
        assert_eq!(
            report.json["caller_token"]["roles"],
            json!(["ISSUER", "REVEALER"])
        );
    }

    #[test]
    fn a_caller_with_a_certificate_has_no_secret_to_keep() {
        let caller_token = CallerToken {
            san: "spiffe://corp/billing".into(),
            ..CallerToken::default()
        };
        let response = CreateTokenResponse {
            caller_token: Some(caller_token),
            token: String::new(),
        };
        let report = token_created(&response, None);
        assert_eq!(report.json["token"], Value::Null);
        assert_eq!(report.json["caller_token"]["san"], "spiffe://corp/billing");
        assert!(report.done.unwrap().contains("spiffe://corp/billing"));
    }
}
