//! Formats responses as JSON objects and as lines for people, with the names of the API.

use keyward_proto::v1::{
    ApiKey, CallerToken, CreateTokenResponse, GetResponse, IssueResponse, RevokeResponse,
    RevokeTokenResponse, Role, State, UpdateResponse, Verdict, VerifyResponse,
};
use serde_json::{Value, json};

use super::args::Format;
use super::render::{Report, enum_name, lines, next_page, present, secret, table, time};
use crate::config::Effective;

/// The fields of a key, in the order of the text output.
const KEY_FIELDS: [&str; 15] = [
    "key_id",
    "account_id",
    "name",
    "hint",
    "state",
    "scopes",
    "metadata",
    "allowed_cidrs",
    "recoverable",
    "create_time",
    "expire_time",
    "revoke_time",
    "revoke_reason",
    "replaced_by",
    "revision",
];
const VERDICT_FIELDS: [&str; 8] = [
    "verdict",
    "key_id",
    "account_id",
    "name",
    "scopes",
    "metadata",
    "expire_time",
    "revision",
];
const TOKEN_FIELDS: [&str; 6] = [
    "token_id",
    "name",
    "roles",
    "create_time",
    "revoke_time",
    "revision",
];
const PROOF_FIELDS: [&str; 2] = ["confirmed_instances", "waited_out_instances"];

pub(super) fn issued(response: &IssueResponse) -> Report {
    let key = response.key.as_ref().map(key);
    let json = json!({
        "key": key,
        "api_key": present(&response.api_key),
        "created": response.created,
    });
    let mut text = lines(&json, &["created"]) + &lines(&json["key"], &KEY_FIELDS);
    if !response.api_key.is_empty() {
        text.push_str(&secret(&response.api_key));
    }
    Report {
        note: response
            .key
            .as_ref()
            .and_then(|key| not_created(response, key)),
        ..Report::new(json, text)
    }
}

/// A note about a key that already existed.
fn not_created(response: &IssueResponse, key: &ApiKey) -> Option<String> {
    if response.created {
        return None;
    }
    let shown = if !response.api_key.is_empty() {
        String::new()
    } else if key.recoverable {
        "\n  only a token with the role revealer sees its secret".to_owned()
    } else {
        format!(
            "\n  its secret cannot be shown again; to replace the key, run keyward revoke {} --replace",
            key.key_id
        )
    };
    Some(format!(
        "the slot already has this key, and the command changed nothing (to change the \
         key, run keyward update){shown}"
    ))
}

pub(super) fn shown(response: &GetResponse) -> Report {
    let json = json!({ "key": response.key.as_ref().map(key) });
    let text = lines(&json["key"], &KEY_FIELDS);
    Report::new(json, text)
}

pub(super) fn listed(keys: &[ApiKey], next_page_token: &str) -> Report {
    let keys: Vec<_> = keys.iter().map(key).collect();
    let columns = [
        "key_id",
        "name",
        "hint",
        "state",
        "create_time",
        "expire_time",
        "revoke_time",
    ];
    let text = table(&columns, &keys) + &next_page(next_page_token);
    Report::new(
        json!({ "keys": keys, "next_page_token": present(next_page_token) }),
        text,
    )
}

pub(super) fn updated(response: &UpdateResponse) -> Report {
    let json = json!({
        "key": response.key.as_ref().map(key),
        "revision": response.revision,
        "confirmed_instances": response.confirmed_instances,
        "waited_out_instances": response.waited_out_instances,
    });
    let text = lines(&json["key"], &KEY_FIELDS) + &lines(&json, &PROOF_FIELDS);
    Report::new(json, text)
}

/// `replace`: whether the caller asked for a successor.
pub(super) fn revoked(response: &RevokeResponse, replace: bool) -> Report {
    let revoked: Vec<_> = response.revoked.iter().map(key).collect();
    let json = json!({
        "revoked": revoked,
        "revoked_count": response.revoked_count,
        "replacement": response.replacement.as_ref().map(key),
        "api_key": present(&response.api_key),
        "revoke_time": response.revoke_time.as_ref().map(time),
        "revision": response.revision,
        "confirmed_instances": response.confirmed_instances,
        "waited_out_instances": response.waited_out_instances,
    });
    let mut text = lines(&json, &["revoked_count", "revoke_time"]) + &lines(&json, &PROOF_FIELDS);
    if !revoked.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &[
                "key_id",
                "account_id",
                "name",
                "hint",
                "state",
                "revoke_time",
            ],
            &revoked,
        ));
    }
    if response.replacement.is_some() {
        text.push_str("\nreplacement\n");
        text.push_str(&lines(&json["replacement"], &KEY_FIELDS));
    }
    if !response.api_key.is_empty() {
        text.push_str(&secret(&response.api_key));
    }
    Report {
        note: replace.then(|| not_replaced(response)).flatten(),
        ..Report::new(json, text)
    }
}

/// A note about a `--replace` that returned no new secret.
fn not_replaced(response: &RevokeResponse) -> Option<String> {
    let note = match &response.replacement {
        _ if !response.api_key.is_empty() => return None,
        None => {
            "the key was revoked earlier without a replacement and gets none now; to fill its slot, \
             run keyward issue"
        }
        Some(key) if key.recoverable => {
            "the key was replaced earlier; only a token with the role revealer sees the secret of the \
             replacement"
        }
        Some(_) => {
            "the key was replaced earlier, and the secret of the replacement cannot be shown again; to \
             get a new secret, replace the replacement"
        }
    };
    Some(note.to_owned())
}

pub(super) fn judged(response: &VerifyResponse) -> Report {
    let json = json!({
        "verdict": enum_name(Verdict::try_from(response.verdict).map(|v| v.as_str_name()), "VERDICT_"),
        "key_id": present(&response.key_id),
        "account_id": present(&response.account_id),
        "name": present(&response.name),
        "scopes": response.scopes,
        "metadata": response.metadata,
        "expire_time": response.expire_time.as_ref().map(time),
        "revision": response.revision,
    });
    let is_valid = response.verdict == i32::from(Verdict::Valid);
    // The other fields are set only for a valid key.
    let fields = if is_valid {
        &VERDICT_FIELDS[..]
    } else {
        &["verdict"]
    };
    let text = lines(&json, fields);
    Report {
        exit: if is_valid {
            super::DONE
        } else {
            super::NOT_VALID
        },
        ..Report::new(json, text)
    }
}

pub(super) fn healthy() -> Report {
    let json = json!({"status": "SERVING"});
    let text = lines(&json, &["status"]);
    Report::new(json, text)
}

pub(super) fn token_created(response: &CreateTokenResponse) -> Report {
    let json = json!({
        "caller_token": response.caller_token.as_ref().map(token),
        "token": present(&response.token),
    });
    let mut text = lines(&json["caller_token"], &TOKEN_FIELDS);
    if !response.token.is_empty() {
        text.push_str(&secret(&response.token));
    }
    Report::new(json, text)
}

pub(super) fn tokens_listed(tokens: &[CallerToken], next_page_token: &str) -> Report {
    let tokens: Vec<_> = tokens.iter().map(token).collect();
    let columns = ["token_id", "name", "roles", "create_time", "revoke_time"];
    let text = table(&columns, &tokens) + &next_page(next_page_token);
    let json = json!({ "caller_tokens": tokens, "next_page_token": present(next_page_token) });
    Report::new(json, text)
}

pub(super) fn token_revoked(response: &RevokeTokenResponse) -> Report {
    let json = json!({
        "caller_token": response.caller_token.as_ref().map(token),
        "revision": response.revision,
        "confirmed_instances": response.confirmed_instances,
        "waited_out_instances": response.waited_out_instances,
    });
    let text = lines(&json["caller_token"], &TOKEN_FIELDS) + &lines(&json, &PROOF_FIELDS);
    Report::new(json, text)
}

/// The effective settings. In JSON, an object with `value` and `source` for each name.
pub(super) fn config(effective: &Effective, format: Format) -> String {
    let entries = effective.entries.iter();
    let rows: Vec<_> = entries
        .map(|e| json!({ "name": e.name, "value": e.value, "source": e.source.to_string() }))
        .collect();
    let by_name: serde_json::Map<_, _> = effective
        .entries
        .iter()
        .map(|e| {
            (
                e.name.to_owned(),
                json!({ "value": e.value, "source": e.source.to_string() }),
            )
        })
        .collect();
    Report::new(by_name.into(), table(&["name", "value", "source"], &rows)).render(format)
}

fn key(key: &ApiKey) -> Value {
    json!({
        "key_id": key.key_id,
        "account_id": key.account_id,
        "name": key.name,
        "hint": key.hint,
        "scopes": key.scopes,
        "metadata": key.metadata,
        "allowed_cidrs": key.allowed_cidrs,
        "recoverable": key.recoverable,
        "disabled": key.disabled,
        "create_time": key.create_time.as_ref().map(time),
        "expire_time": key.expire_time.as_ref().map(time),
        "revoke_time": key.revoke_time.as_ref().map(time),
        "revoke_reason": present(&key.revoke_reason),
        "replaced_by": present(&key.replaced_by),
        "state": enum_name(State::try_from(key.state).map(|s| s.as_str_name()), "STATE_"),
        "revision": key.revision,
    })
}

fn token(token: &CallerToken) -> Value {
    let role = |role: &i32| enum_name(Role::try_from(*role).map(|r| r.as_str_name()), "ROLE_");
    json!({
        "token_id": token.token_id,
        "name": token.name,
        "roles": token.roles.iter().map(role).collect::<Vec<_>>(),
        "create_time": token.create_time.as_ref().map(time),
        "revoke_time": token.revoke_time.as_ref().map(time),
        "revision": token.revision,
    })
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    const AT: Timestamp = Timestamp {
        seconds: 1_900_000_000,
        nanos: 500_000_000,
    };

    fn sample() -> ApiKey {
        ApiKey {
            key_id: "0197".into(),
            account_id: "42".into(),
            name: "default".into(),
            hint: "kw_abcd".into(),
            scopes: vec!["a".into(), "b".into()],
            metadata: [("team".to_owned(), "x".to_owned())].into(),
            state: State::Active.into(),
            create_time: Some(AT),
            ..ApiKey::default()
        }
    }

    #[test]
    fn new_key_shows_its_secret_once() {
        let response = IssueResponse {
            key: Some(sample()),
            api_key: "kw_secret".into(),
            created: true,
        };
        let report = issued(&response);
        assert_eq!(report.text.matches("kw_secret").count(), 1);
        assert!(report.text.ends_with("\n\nkw_secret\n"));
        assert!(
            report.text.contains("account_id:    42\n"),
            "{}",
            report.text
        );
        assert!(
            report.text.contains("metadata:      team=x\n"),
            "{}",
            report.text
        );
        assert!(!report.text.contains("revoke_time"));
        let json: Value = serde_json::from_str(&report.render(Format::Json)).unwrap();
        assert_eq!(json["api_key"], "kw_secret");
        assert_eq!(json["key"]["state"], "ACTIVE");
        assert_eq!(json["key"]["create_time"], "2030-03-17T17:46:40.5Z");
        assert_eq!(json["key"]["expire_time"], Value::Null);
        assert_eq!(json["key"]["replaced_by"], Value::Null);
        assert_eq!(json["key"].as_object().unwrap().len(), 16);
    }

    #[test]
    fn hidden_secret_is_null() {
        let report = issued(&IssueResponse {
            key: Some(sample()),
            ..IssueResponse::default()
        });
        assert!(report.note.is_some_and(|note| note.contains("already has")));
        assert_eq!(report.json["api_key"], Value::Null);
    }

    #[test]
    fn refused_key_is_one_line() {
        let response = VerifyResponse {
            verdict: Verdict::NotFound.into(),
            ..VerifyResponse::default()
        };
        let report = judged(&response);
        assert_eq!(report.json["verdict"], "NOT_FOUND");
        assert_eq!(report.text, "verdict: NOT_FOUND\n");
        assert_eq!(
            judged(&VerifyResponse {
                verdict: 99,
                ..response
            })
            .json["verdict"],
            "UNKNOWN"
        );
    }

    #[test]
    fn list_is_a_table_or_an_array() {
        let report = listed(&[sample(), sample()], "");
        let first = report.text.lines().nth(1).unwrap();
        assert_eq!(
            first,
            "0197    default  kw_abcd  ACTIVE  2030-03-17T17:46:40.5Z"
        );
        assert_eq!(report.json["keys"].as_array().unwrap().len(), 2);
        assert_eq!(report.json["next_page_token"], Value::Null);
    }

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
        let report = token_created(&response);
        assert_eq!(report.text.matches("kwt_x").count(), 1);
        assert_eq!(report.json["token"], "kwt_x");
        assert_eq!(
            report.json["caller_token"]["roles"],
            json!(["ISSUER", "REVEALER"])
        );
    }
}
