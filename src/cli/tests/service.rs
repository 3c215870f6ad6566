//! Tests of the verbs that call the service, against a scripted service.

use std::collections::HashMap;

use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_proto::v1::*;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{DONE, FAILED, ID, NOT_VALID, keyward};

struct Scripted;

fn refusal(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "keyward", HashMap::new());
    if code == Code::InvalidArgument {
        details.add_bad_request_violation("account_id", "must not be empty");
    }
    Status::with_error_details(code, "refused by script", details)
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
            ..ApiKey::default()
        };
        Ok(Response::new(IssueResponse {
            key: Some(key),
            api_key: "kw_new".into(),
            created: true,
        }))
    }

    async fn revoke(&self, _: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        Err(refusal(Code::Unavailable, "REVOKE_UNCONFIRMED"))
    }

    async fn verify(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let is_valid = request.into_inner().api_key == "kw_good";
        let verdict = if is_valid {
            Verdict::Valid
        } else {
            Verdict::Revoked
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

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(refusal(Code::Unauthenticated, "TOKEN_INVALID"))
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
    assert!(out.starts_with("verdict:     VALID\n"), "{out}");
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
    assert_eq!((code, out.as_str()), (FAILED, ""));
    let expected = "error: INVALID_FIELD: refused by script; account_id: must not be empty\n";
    assert_eq!(err, expected);

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
