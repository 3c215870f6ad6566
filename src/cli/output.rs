//! Formats responses as JSON objects and as lines for people, with the names of the API.

use keyward_proto::v1::{
    ApiKey, GetResponse, IssueResponse, RevokeResponse, State, UndoImportResponse, UpdateResponse,
    Verdict, VerifyResponse,
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::args;
use super::render::{Field as _, Fields, Report, enum_name, present, table, time};
use crate::config::Effective;

/// A change that is older than this was made by an earlier command. It allows for the difference
/// between the clock of this machine and that of the store.
const CLOCK_DIFFERENCE: i64 = 60;

/// Fields of a message, with their names in the API.
macro_rules! fields {
    ($message:expr, $($name:ident),+) => {
        vec![$((stringify!($name), $message.$name.json())),+]
    };
}

mod tokens;

pub(super) use tokens::{lost_token, token_created, token_revoked, tokens_listed};

pub(super) fn issued(response: &IssueResponse) -> Report {
    let report = Report::default()
        .fields(fields!(response, created))
        .message("key", response.key.as_ref().map(key))
        .json(
            "predecessor",
            json!(response.predecessor.as_ref().map(object)),
        )
        .secret("api_key", &response.api_key);
    let Some(key) = &response.key else {
        return report;
    };
    if response.created {
        let done = format!("the key {} was created; {}", key.key_id, secret_advice(key));
        return Report {
            done: Some(done),
            ..report
        };
    }
    let advice = match present(&response.api_key) {
        Some(_) => String::new(),
        None => format!("\n  {}", secret_advice(key)),
    };
    let note = format!(
        "the slot already has this key, and the command changed nothing (to change the key, run \
         keyward update){advice}"
    );
    Report {
        note: Some(note),
        ..report
    }
}

/// How to get the secret of a key that was not shown.
fn secret_advice(key: &ApiKey) -> String {
    if key.recoverable {
        "only a token with the role revealer sees its secret".to_owned()
    } else {
        format!(
            "its secret cannot be shown again; to replace the key, run keyward revoke {} --replace",
            key.key_id
        )
    }
}

pub(super) fn shown(response: &GetResponse) -> Report {
    Report::default().message("key", response.key.as_ref().map(key))
}

/// `of_all`: whether the keys are those of all accounts.
pub(super) fn listed(keys: &[ApiKey], of_all: bool, next_page_token: &str) -> Report {
    let columns = [
        "key_id",
        "account_id",
        "name",
        "hint",
        "state",
        "create_time",
        "expire_time",
        "revoke_time",
        "last_use_time",
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .filter(|column| of_all || *column != "account_id")
        .collect();
    Report::default()
        .table("keys", &columns, keys.iter().map(object).collect())
        .next_page(next_page_token)
}

pub(super) fn updated(response: &UpdateResponse) -> Report {
    let report = Report::default()
        .message("key", response.key.as_ref().map(key))
        .fields(fields!(response, confirmed_instances, waited_out_instances))
        .json("revision", json!(response.revision));
    Report {
        done: Some("the change is in force".to_owned()),
        ..report
    }
}

/// `start`: when the command started, by the clock of this machine.
pub(super) fn revoked(response: &RevokeResponse, args: &args::Revoke, start: Timestamp) -> Report {
    let mut report = Report::default()
        .fields(fields!(response, revoked_count, revoke_time))
        .fields(fields!(response, confirmed_instances, waited_out_instances))
        .json("revision", json!(response.revision));
    let revoked: Vec<_> = response.revoked.iter().map(object).collect();
    report = if revoked.is_empty() {
        report.json("revoked", json!([]))
    } else {
        let columns = [
            "key_id",
            "account_id",
            "name",
            "hint",
            "state",
            "revoke_time",
        ];
        report.text("\n").table("revoked", &columns, revoked)
    };
    let mut done = "the revocation is in force".to_owned();
    if let Some(key) = &response.replacement {
        report = report.text("\nreplacement\n");
        done = format!(
            "{done}, and the replacement is {}; {}",
            key.key_id,
            secret_advice(key)
        );
    }
    let report = report
        .message("replacement", response.replacement.as_ref().map(key))
        .secret("api_key", &response.api_key);
    let note = match (args.replace, &args.account) {
        (true, _) => not_replaced(response),
        (false, None) => revoked_before(response, start),
        // The response counts only the keys that this command revoked.
        (false, Some(_)) => None,
    };
    let is_complete = !args.replace || response.replacement.is_some();
    Report {
        note,
        done: Some(done),
        exit: if is_complete {
            super::DONE
        } else {
            super::FAILED
        },
        ..report
    }
}

/// A note about a `--replace` that returned no new secret.
fn not_replaced(response: &RevokeResponse) -> Option<String> {
    let note = match &response.replacement {
        _ if !response.api_key.is_empty() => return None,
        None => {
            "the key was revoked earlier without a replacement and gets none now; to fill its slot, \
             run keyward issue"
                .to_owned()
        }
        Some(key) if key.recoverable => {
            "the key was replaced earlier; only a token with the role revealer sees the secret of the \
             replacement"
                .to_owned()
        }
        Some(key) => format!(
            "the key was replaced earlier, and the secret of the replacement cannot be shown again; to \
             get a new secret, run keyward revoke --replace {}",
            key.key_id
        ),
    };
    Some(note)
}

/// A note about a key that an earlier command revoked. The response only tells when.
fn revoked_before(response: &RevokeResponse, start: Timestamp) -> Option<String> {
    let revoke_time = response.revoke_time.as_ref()?;
    let is_old = start.seconds.saturating_sub(revoke_time.seconds) > CLOCK_DIFFERENCE;
    is_old.then(|| format!("the key was already revoked at {}", time(revoke_time)))
}

/// `is_token`: whether the text is that of a caller's token.
pub(super) fn judged(response: &VerifyResponse, is_token: bool) -> Report {
    let verdict = Verdict::try_from(response.verdict).map(|verdict| verdict.as_str_name());
    let verdict = vec![("verdict", json!(enum_name(verdict, "VERDICT_")))];
    let identity = fields!(
        response,
        key_id,
        account_id,
        name,
        scopes,
        metadata,
        expire_time,
        revision
    );
    if response.verdict == i32::from(Verdict::Valid) {
        return Report::default().fields([verdict, identity].concat());
    }
    let note = "this is the token of a caller, not an API key";
    // The other fields are set only for a valid key, and the name also for a dead one.
    let name = present(&response.key_id).map(|id| ("key_id", json!(id)));
    let report = Report::default().fields(verdict.into_iter().chain(name).collect());
    let report = identity
        .into_iter()
        .fold(report, |report, (name, value)| report.json(name, value));
    Report {
        note: is_token.then(|| note.to_owned()),
        exit: super::NOT_VALID,
        ..report
    }
}

pub(super) fn undone(response: &UndoImportResponse) -> Report {
    let report = Report::default()
        .fields(fields!(response, revoked_count, revoke_time))
        .fields(fields!(response, confirmed_instances, waited_out_instances))
        .json("revision", json!(response.revision));
    let note = "no key of this import was alive";
    Report {
        note: (response.revoked_count == 0).then(|| note.to_owned()),
        done: Some("the revocation is in force".to_owned()),
        ..report
    }
}

pub(super) fn healthy() -> Report {
    Report::default().fields(vec![("status", json!("SERVING"))])
}

/// The effective settings. In JSON, an object with `value` and `source` for each name.
pub(super) fn config(effective: &Effective) -> Report {
    let entries = effective.entries.iter();
    let rows = entries
        .map(|e| json!({ "name": e.name, "value": e.value, "source": e.source.to_string() }));
    let rows: Vec<_> = rows.collect();
    let by_name = effective.entries.iter().map(|entry| {
        let value = json!({ "value": entry.value, "source": entry.source.to_string() });
        (entry.name.to_owned(), value)
    });
    Report {
        json: by_name.collect(),
        text: table(&["name", "value", "source"], &rows),
        ..Report::default()
    }
}

/// A key as a JSON object.
pub(super) fn object(key: &ApiKey) -> Value {
    Value::from_iter(self::key(key))
}

fn key(key: &ApiKey) -> Fields {
    let state = State::try_from(key.state).map(|state| state.as_str_name());
    let mut fields = fields!(key, key_id, account_id, name, hint);
    fields.push(("state", json!(enum_name(state, "STATE_"))));
    fields.extend(fields!(
        key,
        scopes,
        metadata,
        allowed_cidrs,
        recoverable,
        disabled
    ));
    fields.extend(fields!(key, create_time, expire_time, revoke_time));
    fields.extend(fields!(key, revoke_reason, replaced_by, revision));
    fields.extend(fields!(
        key,
        last_use_time,
        refused_count,
        last_refused_time
    ));
    fields
}

#[cfg(test)]
mod tests {
    use super::super::args::Format;
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
            predecessor: None,
        };
        let report = issued(&response);
        assert_eq!(report.text.matches("kw_secret").count(), 1);
        assert!(report.text.ends_with("\n\nkw_secret\n"));
        assert!(report.text.contains("account_id:  42\n"), "{}", report.text);
        assert!(
            report.text.contains("metadata:    team=x\n"),
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
        assert_eq!(json["key"].as_object().unwrap().len(), 19);
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
        let report = judged(&response, false);
        assert_eq!(report.json["verdict"], "NOT_FOUND");
        assert_eq!(report.text, "verdict: NOT_FOUND\n");
        assert_eq!(
            judged(
                &VerifyResponse {
                    verdict: 99,
                    ..response
                },
                false
            )
            .json["verdict"],
            "UNKNOWN"
        );
    }

    #[test]
    fn list_is_a_table_or_an_array() {
        let report = listed(&[sample(), sample()], false, "");
        let first = report.text.lines().nth(1).unwrap();
        assert_eq!(
            first,
            "0197    default  kw_abcd  ACTIVE  2030-03-17T17:46:40.5Z"
        );
        assert_eq!(report.json["keys"].as_array().unwrap().len(), 2);
        assert_eq!(report.json["next_page_token"], Value::Null);
    }
}
