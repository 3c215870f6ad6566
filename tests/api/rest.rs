//! The JSON port: every RPC answers as by gRPC, and wrong requests get clear errors.

mod wrong;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyward::system::SystemEntropy;
use keyward_crypto::{KeyKind, keyring_files};
use keyward_testkit::{HttpAnswer, PATIENCE, Receiver, eventually, undoing, uuid_v4};
use parking_lot::Mutex;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use super::*;

/// Calls the JSON port by curl.
struct Curl {
    port: SocketAddr,
    token: String,
    /// The routes that were called, as the OpenAPI document names them.
    called: Mutex<BTreeSet<String>>,
    /// The ids of their requests.
    ids: Mutex<BTreeSet<String>>,
}

impl Curl {
    fn new(local: &Local) -> Self {
        Self {
            port: local.app.rest_address().unwrap(),
            token: local.token.clone(),
            called: Mutex::default(),
            ids: Mutex::default(),
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> HttpAnswer {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "60"])
            .args(["--http1.0", "--path-as-is", "--request", method])
            .args(["--header", &format!("authorization: Bearer {}", self.token)])
            .args(headers.iter().flat_map(|header| ["--header", header]))
            .args(["--data-binary", "@-"])
            .arg(format!("http://{}{path}", self.port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let output = tokio::task::block_in_place(|| {
            let mut curl = curl.spawn().expect("curl can be started");
            let mut input = curl.stdin.take().unwrap();
            // curl may refuse to read more when the service has answered.
            let _ = input.write_all(body.as_bytes());
            drop(input);
            curl.wait_with_output().unwrap()
        });
        HttpAnswer::read(&output.stdout).unwrap_or_else(|| panic!("{method} {path}: {output:?}"))
    }

    /// The answer of a route, with its variable in braces.
    async fn call<M>(&self, route: &str, variable: &str, query: &str, body: Value) -> M
    where
        M: prost::Message + prost::Name + Default,
    {
        self.called.lock().insert(route.to_owned());
        let (method, template) = route.split_once(' ').unwrap();
        let start = template.split('{').next().unwrap();
        let path = format!("{start}{variable}{query}");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self
            .ask(method, &path, &["content-type: application/json"], &body)
            .await;
        assert_eq!(answer.status, 200, "{route}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(self.ids.lock().insert(id.clone()), "{id} came twice");
        read(&answer.body)
    }
}

/// The message of a JSON text.
fn read<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    let pool = DescriptorPool::decode(keyward_proto::FILE_DESCRIPTOR_SET).unwrap();
    let message = pool.get_message_by_name(&M::full_name()).unwrap();
    let mut json = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(message, &mut json).unwrap();
    message.transcode_to().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_answers_as_by_grpc() {
    let receiver = Receiver::start();
    let url = receiver.url();
    let local = Local::start().await;
    let with_all = |settings: &mut keyward::config::Settings| {
        import::accept_foreign(settings);
        settings.webhooks = vec![webhooks::endpoint(settings, "a", &url)];
    };
    let local = local.restart_with_import_secrets(with_all).await;
    let client = local.client().await;
    let curl = Curl::new(&local);
    let none = Value::Null;

    let body = json!({
        "accountId": "a/b", "name": "bot.1", "scopes": ["write", "read"], "metadata": {"team": "payments ✓"},
        "allowed_cidrs": ["10.0.0.0/8"], "recoverable": true, "ttl": "3600s",
    });
    let issued: v1::IssueResponse = curl.call("POST /v1/keys:issue", "", "", body).await;
    let request = v1::IssueRequest {
        name: "bot.1".to_owned(),
        ..recoverable("a/b")
    };
    let same = client.send(request).await.unwrap();
    assert!(issued.created && !same.created);
    assert_eq!((&issued.key, &issued.api_key), (&same.key, &same.api_key));
    let id = same.key.unwrap().key_id;
    let key = issued.api_key;

    let body = json!({"apiKey": key, "requiredScopes": ["read"], "clientIp": "10.1.1.1"});
    let verified: v1::VerifyResponse = curl
        .call("POST /v1/keys:verify", "", "", body.clone())
        .await;
    let request = v1::VerifyRequest {
        required_scopes: vec!["read".to_owned()],
        client_ip: "10.1.1.1".to_owned(),
        ..verifying(&key)
    };
    assert_eq!(verified, client.send(request.clone()).await.unwrap());
    assert_eq!(verified.verdict(), Verdict::Valid);

    let batch = json!({"requests": [body, {"api_key": "x"}]});
    let answers: v1::VerifyBatchResponse =
        curl.call("POST /v1/keys:verifyBatch", "", "", batch).await;
    let requests = vec![request, verifying("x")];
    let same = client
        .send(v1::VerifyBatchRequest { requests })
        .await
        .unwrap();
    assert_eq!(answers, same);

    let shown = client.send(getting(&id)).await.unwrap();
    assert_eq!(
        shown,
        curl.call("GET /v1/keys/{key_id}", &id, "", none.clone())
            .await
    );
    let by_text = curl
        .call("POST /v1/keys:get", "", "", json!({"apiKey": key}))
        .await;
    assert_eq!(shown, by_text);

    let query = "?account_id=a%2Fb&includeRevoked=true&page_size=7&older_than=0s";
    let listed: v1::ListResponse = curl.call("GET /v1/keys", "", query, none.clone()).await;
    let request = v1::ListRequest {
        page_size: 7,
        older_than: seconds(0),
        ..listing_all("a/b")
    };
    assert_eq!(listed, client.send(request).await.unwrap());
    assert_eq!(listed.keys.len(), 1);

    let query = "?updateMask=scopes,allowedCidrs";
    let body = json!({"scopes": ["one"], "metadata": {"not": "in the mask"}});
    let updated: v1::UpdateResponse = curl.call("PATCH /v1/keys/{key_id}", &id, query, body).await;
    let mut change = bare(&id);
    change.scopes = vec!["one".to_owned()];
    let same = client
        .send(changing(change, ["scopes", "allowed_cidrs"]))
        .await
        .unwrap();
    assert_eq!(updated, same);
    assert_eq!(updated.key.unwrap().metadata["team"], "payments ✓");

    let body = json!({"keyId": id, "replace": true, "reason": "test", "grace": "0s"});
    let revoked: v1::RevokeResponse = curl.call("POST /v1/keys:revoke", "", "", body).await;
    let same = client.send(replacing(&id)).await.unwrap();
    assert_eq!(revoked, same);
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    assert_eq!(
        client.verify(&revoked.api_key).await.unwrap(),
        Verdict::Valid
    );

    let body = json!({"name": "gateway", "roles": ["ROLE_VERIFIER"]});
    let created: v1::CreateTokenResponse = curl.call("POST /v1/tokens", "", "", body).await;
    let other = Client::new(local.app.grpc_address(), Some(&created.token)).await;
    assert_eq!(other.verify("x").await.unwrap(), Verdict::Malformed);
    let listed: v1::ListTokensResponse = curl.call("GET /v1/tokens", "", "", none.clone()).await;
    assert_eq!(
        listed,
        client.send(v1::ListTokensRequest::default()).await.unwrap()
    );
    let token_id = created.caller_token.unwrap().token_id;
    let body = json!({"tokenId": token_id});
    let gone: v1::RevokeTokenResponse = curl.call("POST /v1/tokens:revoke", "", "", body).await;
    assert_eq!(gone, client.send(revoking_token(&token_id)).await.unwrap());
    assert_eq!(
        other.verify("x").await.unwrap_err().code(),
        Code::Unauthenticated
    );

    let text = uuid_v4();
    let (batch_id, digest) = (uuid_v4(), STANDARD.encode([7; 32]));
    let body = json!({"batchId": batch_id, "keys": [
        {"accountId": "moved", "apiKey": text, "createTime": "2020-01-01T00:00:00Z"},
        {"account_id": "moved-2", "digest": digest, "digest_scheme": "sha256"},
        {"account_id": "", "api_key": text},
    ]});
    let imported: v1::ImportKeysResponse = curl.call("POST /v1/keys:import", "", "", body).await;
    assert_eq!((imported.imported, imported.bad), (2, 1), "{imported:?}");
    assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
    let query = "?include_revoked=true&pageSize=100";
    let exported: v1::ExportKeysResponse = curl.call("GET /v1/keys:export", "", query, none).await;
    let request = v1::ExportKeysRequest {
        include_revoked: true,
        page_size: 100,
        ..Default::default()
    };
    assert_eq!(exported, client.send(request).await.unwrap());
    assert_eq!(exported.keys.len(), 4);
    let body = json!({"batchId": batch_id, "reason": "wrong file"});
    let undone: v1::UndoImportResponse = curl.call("POST /v1/imports:undo", "", "", body).await;
    assert_eq!(undone.revoked_count, 2);
    assert_eq!(
        client.send(undoing(&batch_id)).await.unwrap().revoked_count,
        0
    );
    assert_eq!(client.verify(&text).await.unwrap(), Verdict::Revoked);
    let keyring = || v1::GetKeyringStatusRequest {};
    let status: v1::GetKeyringStatusResponse =
        curl.call("GET /v1/keyring", "", "", Value::Null).await;
    assert_eq!(status, client.send(keyring()).await.unwrap());
    let body = json!({"kind": "KEYRING_KEY_KIND_SEAL", "number": 1});
    let _: v1::ActivateKeyringKeyResponse =
        curl.call("POST /v1/keyring:activate", "", "", body).await;
    let body = json!({"kind": "KEYRING_KEY_KIND_SEAL", "number": 2});
    let added = keyring_files::add(
        &local.directory.path().join("keyring"),
        KeyKind::Seal,
        None,
        &SystemEntropy,
    );
    added.unwrap();
    eventually("the new file is loaded", PATIENCE, || async {
        client.send(keyring()).await.unwrap().keys.len() > status.keys.len()
    })
    .await;
    let _: v1::RetireKeyringKeyResponse = curl.call("POST /v1/keyring:retire", "", "", body).await;
    let query = "?account_id=a%2Fb&action=AUDIT_ACTION_UPDATE&newestFirst=true&page_size=3";
    let events: v1::ListAuditEventsResponse =
        curl.call("GET /v1/audit", "", query, Value::Null).await;
    let request = v1::ListAuditEventsRequest {
        account_id: "a/b".to_owned(),
        action: v1::AuditAction::Update.into(),
        newest_first: true,
        page_size: 3,
        ..Default::default()
    };
    assert_eq!(events, client.send(request).await.unwrap());
    assert_eq!(events.events.len(), 1);
    let verified: v1::VerifyAuditResponse =
        curl.call("GET /v1/audit:verify", "", "", Value::Null).await;
    assert_eq!(verified.fault, None);
    let listed: v1::ListWebhooksResponse = curl.call("GET /v1/webhooks", "", "", Value::Null).await;
    assert_eq!(listed.webhooks[0].name, "a");
    let body = json!({"name": "a"});
    let tested: v1::TestWebhookResponse = curl
        .call("POST /v1/webhooks:test", "", "", body.clone())
        .await;
    assert_eq!(tested.status, 204, "{tested:?}");
    let _: v1::ReplayWebhookResponse = curl.call("POST /v1/webhooks:replay", "", "", body).await;
    let body = json!({"accountId": "a/b"});
    let erased: v1::EraseAccountResponse = curl.call("POST /v1/accounts:erase", "", "", body).await;
    assert_eq!(client.get(&id).await.unwrap().account_id, erased.pseudonym);

    let document = curl.ask("GET", "/openapi.json", &[], "").await;
    assert_eq!(document.body, keyward_proto::OPENAPI);
    let document: Value = serde_json::from_str(&document.body).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let routes = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        let methods = methods.filter(|name| ["get", "post", "patch"].contains(&name.as_str()));
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let routes = routes.map(|route| {
        route
            .replace("{key.keyId}", "{key_id}")
            .replace("{keyId}", "{key_id}")
    });
    let mut called = curl.called.into_inner();
    called.insert("GET /auth".to_owned());
    assert_eq!(
        routes.collect::<BTreeSet<_>>(),
        called,
        "each route is called here"
    );
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pages_of_chosen_origins_may_read_answers() {
    let origin = "https://console.example.com";
    for (origins, allowed) in [
        (vec![], None),
        (vec![origin.parse().unwrap()], Some(origin)),
    ] {
        let change =
            |settings: &mut keyward::config::Settings| settings.rest_cors_origins = origins;
        let local = Local::start_with(change, |store| store).await;
        let curl = Curl::new(&local);
        let header = format!("origin: {origin}");
        let preflight = [&header, "access-control-request-method: POST"];
        let preflight = curl.ask("OPTIONS", "/v1/keys:verify", &preflight, "").await;
        let answer = curl.ask("GET", "/v1/tokens", &[&header], "").await;
        let foreign = curl
            .ask(
                "GET",
                "/v1/tokens",
                &["origin: https://other.example.com"],
                "",
            )
            .await;
        let allows = |answer: &HttpAnswer| {
            answer
                .header("access-control-allow-origin")
                .map(str::to_owned)
        };
        assert_eq!(preflight.status, if allowed.is_some() { 200 } else { 405 });
        assert_eq!(allows(&preflight).as_deref(), allowed);
        assert_eq!(allows(&answer).as_deref(), allowed);
        assert_eq!(allows(&foreign), None);
        // A proxy would let such a request through.
        let auth = curl.ask("OPTIONS", "/auth", &[&header], "").await;
        assert_eq!((auth.status, allows(&auth)), (503, None));
        local.app.stop().await;
    }
}

/// The audit records the id that the response has.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_names_its_request() {
    let (local, _) = start().await;
    let curl = Curl::new(&local);
    let long = format!("x-request-id: {}", "a".repeat(129));
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let cases = [
        ("x-request-id: order-7", Some("order-7")),
        ("x-request-id: two words", None),
        ("x-request-id: \u{e9}t\u{e9}", None),
        (&long, None),
        (trace, None),
    ];
    for (account, (header, chosen)) in cases.into_iter().enumerate() {
        let headers = ["content-type: application/json", header];
        let body = format!(r#"{{"accountId": "{account}"}}"#);
        let answer = curl.ask("POST", "/v1/keys:issue", &headers, &body).await;
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(id, chosen.unwrap_or(id), "{header}");
        let is_visible = id.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_visible && id.len() <= 128, "{header}: {id}");
        let events = curl.ask("GET", "/v1/audit?newestFirst=true", &[], "").await;
        let events: Value = serde_json::from_str(&events.body).unwrap();
        assert_eq!(events["events"][0]["requestId"], id, "{header}: {events}");
    }
    local.app.stop().await;
}
