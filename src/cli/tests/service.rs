//! Tests of the verbs that call the service, against a scripted service.

use std::collections::HashMap;

use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_proto::v1::*;
use prost_types::Timestamp;
use tokio_stream::Empty;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{DONE, FAILED, ID, NOT_VALID, USAGE, free_address, keys, keyward, keyward_in};

struct Scripted;

fn refusal(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "keyward", HashMap::new());
    let mut message = "refused by script".to_owned();
    if code == Code::InvalidArgument {
        let wrong = "must not be \u{202e}empty";
        details.add_bad_request_violation("account_id", wrong);
        message = format!("account_id: {wrong}");
    }
    Status::with_error_details(code, message, details)
}

#[tonic::async_trait]
impl ApiKeyService for Scripted {
    async fn issue(
        &self,
        request: Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            "Bearer kwt_canary"
        );
        let request = request.into_inner();
        if request.account_id.is_empty() {
            return Err(refusal(Code::InvalidArgument, "INVALID_FIELD"));
        }
        let key = ApiKey {
            account_id: request.account_id,
            name: request.name,
            scopes: request.scopes,
            metadata: request.metadata,
            ..ApiKey::default()
        };
        Ok(Response::new(IssueResponse {
            key: Some(key),
            api_key: "kw_new".into(),
            created: true,
            predecessor: None,
        }))
    }

    type WatchInvalidationsStream = Empty<Result<WatchInvalidationsResponse, Status>>;

    async fn watch_invalidations(
        &self,
        _: Request<Streaming<WatchInvalidationsRequest>>,
    ) -> Result<Response<Self::WatchInvalidationsStream>, Status> {
        Err(Status::unimplemented("no verb opens a stream"))
    }

    /// The reason chooses the response: the age of the revocation in seconds, the key that replaced the
    /// revoked one, or `limit` for the time limit of the call.
    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        let limit = request.metadata().get("grpc-timeout");
        let limit = limit.unwrap().to_str().unwrap().to_owned();
        let reason = request.into_inner().reason;
        if reason == "limit" {
            let revoked = vec![ApiKey {
                revoke_reason: limit,
                ..ApiKey::default()
            }];
            return Ok(Response::new(RevokeResponse {
                revoked,
                ..RevokeResponse::default()
            }));
        }
        if reason == ID {
            let replacement = Some(ApiKey {
                key_id: reason,
                ..ApiKey::default()
            });
            return Ok(Response::new(RevokeResponse {
                replacement,
                ..RevokeResponse::default()
            }));
        }
        let Ok(age) = reason.parse::<i64>() else {
            return Err(refusal(Code::Unavailable, "REVOKE_UNCONFIRMED"));
        };
        let now = Timestamp::from(keys::now());
        let revoke_time = Some(Timestamp {
            seconds: now.seconds - age,
            ..now
        });
        let revoked = ApiKey {
            revoke_time,
            revoke_reason: "\u{202e}1".into(),
            ..ApiKey::default()
        };
        Ok(Response::new(RevokeResponse {
            revoked: vec![revoked],
            revoked_count: 1,
            revoke_time,
            ..RevokeResponse::default()
        }))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let verdict = match request.into_inner().api_key.as_str() {
            "kw_good" => Verdict::Valid,
            "kw_bad" => Verdict::Revoked,
            _ => Verdict::Malformed,
        };
        Ok(Response::new(VerifyResponse {
            verdict: verdict.into(),
            ..VerifyResponse::default()
        }))
    }

    async fn verify_batch(
        &self,
        _: Request<VerifyBatchRequest>,
    ) -> Result<Response<VerifyBatchResponse>, Status> {
        Err(Status::unimplemented("no verb calls this RPC"))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(match request.into_inner().key_id.is_empty() {
            true => refusal(Code::Unauthenticated, "TOKEN_INVALID"),
            false => refusal(Code::NotFound, "KEY_NOT_FOUND"),
        })
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (name, next) = match request.into_inner().page_token.as_str() {
            "" => ("first", "2"),
            _ => ("second", ""),
        };
        let keys = vec![ApiKey {
            name: name.into(),
            ..ApiKey::default()
        }];
        Ok(Response::new(ListResponse {
            keys,
            next_page_token: next.into(),
        }))
    }

    async fn update(&self, _: Request<UpdateRequest>) -> Result<Response<UpdateResponse>, Status> {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        Err(Status::internal("too late"))
    }
}

/// A running service, and the flags to reach it.
struct Service {
    flags: Vec<String>,
    _runtime: tokio::runtime::Runtime,
    _token: tempfile::NamedTempFile,
}

impl Service {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let incoming = {
            let _context = runtime.enter();
            TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap()
        };
        let endpoint = format!("http://{}", incoming.local_addr().unwrap());
        let service = ApiKeyServiceServer::new(Scripted);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "kwt_canary\n").unwrap();
        let token_file = token.path().to_str().unwrap().to_owned();
        let flags = vec![
            "--endpoint".into(),
            endpoint,
            "--token-file".into(),
            token_file,
        ];
        Self {
            flags,
            _runtime: runtime,
            _token: token,
        }
    }

    fn call(&self, arguments: &[&str], input: &str) -> (u8, String, String) {
        let flags = self.flags.iter().map(String::as_str);
        let arguments: Vec<_> = arguments.iter().copied().chain(flags).collect();
        let (code, out, err) = keyward(&arguments, input);
        assert!(
            !out.contains("canary") && !err.contains("canary"),
            "{out}{err}"
        );
        (code, out, err)
    }
}

#[test]
fn verdict_decides_the_exit_code() {
    let service = Service::start();
    let (code, out, _) = service.call(&["verify", "-"], "kw_good\n");
    assert_eq!(code, DONE);
    assert!(out.starts_with("verdict:  VALID\n"), "{out}");
    let (code, out, err) = service.call(&["verify", "kw_bad", "--output", "json"], "");
    assert_eq!((code, err.as_str()), (NOT_VALID, ""));
    assert!(out.contains("\"verdict\": \"REVOKED\""), "{out}");
}

#[test]
fn all_pages_are_listed_unless_one_is_chosen() {
    let service = Service::start();
    let names = |arguments: &[&str]| {
        let (code, out, _) = service.call(
            &[&["list", "--account", "42", "--output", "json"], arguments].concat(),
            "",
        );
        assert_eq!(code, DONE);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        let names = json["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["name"].to_string());
        (names.collect::<String>(), json["next_page_token"].clone())
    };
    assert_eq!(
        names(&[]),
        ("\"first\"\"second\"".to_owned(), serde_json::Value::Null)
    );
    assert_eq!(
        names(&["--page-token", ""]),
        ("\"first\"".to_owned(), "2".into())
    );
    assert_eq!(names(&["--page-token", "2"]).0, "\"second\"");
}

#[test]
fn errors_say_what_to_do() {
    let service = Service::start();
    let (code, out, _) = service.call(&["issue", "--account", "42"], "");
    assert!(code == DONE && out.ends_with("\n\nkw_new\n"), "{out}");

    let (code, out, err) = service.call(&["issue", "--account", ""], "");
    assert_eq!((code, out.as_str()), (USAGE, ""));
    assert_eq!(err, "error: --account: must not be \\u{202e}empty\n");

    let (code, _, err) = service.call(&["get", ID], "");
    assert_eq!(code, FAILED);
    assert!(err.contains("run keyward list --account"), "{err}");

    let (code, _, err) = service.call(&["revoke", ID], "");
    assert_eq!(code, FAILED);
    assert!(
        err.starts_with("error: REVOKE_UNCONFIRMED: ") && err.contains("repeat the command"),
        "{err}"
    );

    let (_, _, err) = service.call(&["get", "--key", "-"], "kw_canary");
    assert!(
        err.contains("TOKEN_INVALID") && err.contains(&service.flags[3]),
        "{err}"
    );

    let (_, _, err) = service.call(&["token", "list"], "");
    assert!(err.contains("check the endpoint"), "{err}");

    let (_, _, err) = service.call(&["update", ID, "--enable", "--timeout", "200ms"], "");
    assert!(
        err.contains("no response within 200ms") && err.contains("--timeout"),
        "{err}"
    );
}

/// The keys of a large account take minutes on Postgres.
#[test]
fn a_change_of_many_keys_has_more_time() {
    let service = Service::start();
    let limit = |arguments: &[&str]| {
        let json = ["--reason", "limit", "--output", "json"];
        let (code, out, err) = service.call(&[arguments, &json].concat(), "");
        assert_eq!(code, DONE, "{err}");
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        json["revoked"][0]["revoke_reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (one, many) = (["revoke", ID], ["revoke", "--account", "42"]);
    // gRPC says it in microseconds while 8 digits suffice, then in milliseconds.
    assert!(limit(&one).starts_with("7") && limit(&one).ends_with('u'));
    assert!(limit(&many).starts_with("86") && limit(&many).ends_with('m'));
    let chosen = limit(&["revoke", "--account", "42", "--timeout", "20s"]);
    assert!(chosen.ends_with('u'), "{chosen}");
}

#[test]
fn value_may_begin_with_a_dash() {
    let service = Service::start();
    let values = ["-1001234567890", "-n", "-s", "-a=-b"];
    let flags = ["--account", "--name", "--scope", "--metadata"];
    let mut arguments = vec!["issue", "--output", "json"];
    arguments.extend(
        flags
            .iter()
            .zip(values)
            .flat_map(|(flag, value)| [*flag, value]),
    );
    let (code, out, err) = service.call(&arguments, "");
    assert_eq!(code, DONE, "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let key = &json["key"];
    let shown = [
        &key["account_id"],
        &key["name"],
        &key["scopes"][0],
        &key["metadata"]["-a"],
    ];
    assert_eq!(shown, ["-1001234567890", "-n", "-s", "-b"]);
    for arguments in [
        &["list", "--account", "-1001234567890", "--page-token", "-x"][..],
        &["revoke", "--account", "-1001234567890", "--reason", "-7"],
    ] {
        let (code, _, err) = service.call(arguments, "");
        assert_eq!(code, DONE, "{arguments:?}: {err}");
    }
    // A missing value must not swallow the next flag.
    for arguments in [
        &["revoke", ID, "--reason", "--replace"][..],
        &["revoke", "--account", "--timeout"],
        &["issue", "--account", "--recoverable"],
        &["list", "--account", "-h"],
    ] {
        let (code, _, err) = service.call(arguments, "");
        assert_eq!(code, USAGE, "{arguments:?}");
        assert!(err.contains("value"), "{err}");
    }
}

/// A terminal acts on these characters, or shows nothing for them.
#[test]
fn invisible_characters_are_escaped_for_people_only() {
    let service = Service::start();
    let value = "a\u{202e}\u{200b}\u{1b}[31m\u{feff}\u{3164}\u{2028}\u{e0041}é נ";
    let pair = format!("team={value}");
    let issue = ["issue", "--account", "42", "--metadata", &pair];
    let (_, out, _) = service.call(&issue, "");
    let escaped = r"team=a\u{202e}\u{200b}\u{1b}[31m\u{feff}\u{3164}\u{2028}\u{e0041}é נ";
    assert!(out.contains(escaped), "{out}");
    let (_, out, _) = service.call(&[&issue[..], &["--output", "json"]].concat(), "");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["key"]["metadata"]["team"], value);
    assert!(out.contains('\u{202e}'), "JSON keeps the text: {out}");
}

#[test]
fn revocation_of_a_dead_key_is_noted() {
    let service = Service::start();
    for (age, is_noted) in [("0", false), ("3600", true)] {
        let (code, out, err) = service.call(&["revoke", ID, "--reason", age], "");
        assert!(
            code == DONE && out.starts_with("revoked_count: 1\n"),
            "{out}"
        );
        assert_eq!(err.contains("was already revoked at"), is_noted, "{err}");
    }
    let (_, _, err) = service.call(&["revoke", "--account", "42", "--reason", "3600"], "");
    assert_eq!(err, "");
    // With --replace, a key without a replacement is a failure.
    for (reason, expected, part) in [
        ("3600", FAILED, "error: the key was revoked earlier without"),
        (ID, DONE, &format!("run keyward revoke --replace {ID}\n")),
    ] {
        let (code, _, err) = service.call(&["revoke", ID, "--replace", "--reason", reason], "");
        assert!(code == expected && err.contains(part), "{code} {err}");
    }
}

#[test]
fn token_in_place_of_a_key_is_named() {
    let service = Service::start();
    let (code, out, err) = service.call(&["verify", "-"], "kwt_mistyped");
    assert_eq!((code, out.as_str()), (NOT_VALID, "verdict: MALFORMED\n"));
    assert!(err.contains("token of a caller"), "{err}");
    for verb in ["get", "revoke"] {
        let (code, _, err) = service.call(&[verb, "--key", "-"], "kwt_canary");
        assert_eq!(code, USAGE);
        assert!(
            err.contains("token of a caller") && err.contains("keyward token revoke"),
            "{err}"
        );
    }
}

#[test]
fn endpoints_are_tried_in_turn() {
    let service = Service::start();
    let free = free_address();
    let both = format!("http://{free} , {}\n", service.flags[1]);
    for _ in 0..6 {
        let issue = [
            "issue",
            "--account",
            "42",
            "--token-file",
            &service.flags[3],
        ];
        let (code, _, err) = keyward_in(&issue, "", &[("KEYWARD_ENDPOINT", &both)]);
        assert_eq!(code, DONE, "{err}");
        let (code, _, err) = keyward(&[&issue[..], &["--endpoint", &both]].concat(), "");
        assert_eq!(code, DONE, "{err}");
    }
    let wrong = format!("{both},");
    let (code, _, err) = keyward_in(&["get", ID], "", &[("KEYWARD_ENDPOINT", &wrong)]);
    assert!(code == USAGE && err.contains("KEYWARD_ENDPOINT"), "{err}");
}
