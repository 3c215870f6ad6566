//! Beside the two services: health, reflection and the audit.

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::{Client, Local, PATIENCE, eventually};
use sqlx::Row;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

async fn health(client: &Client, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let reply = HealthClient::new(client.channel.clone())
        .check(request)
        .await?;
    Ok(reply.into_inner().status())
}

/// Asks until health says so. `meanwhile` is done before each question.
async fn until(client: &Client, wanted: ServingStatus, meanwhile: impl Fn()) {
    loop {
        meanwhile();
        tokio::time::sleep(Duration::from_millis(5)).await;
        if health(client, "").await.unwrap() == wanted {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_serving_only_while_freshness_holds_and_takes_no_token() {
    let local = Local::start().await;
    let client = Client::new(local.app.grpc_address(), None).await;
    until(&client, ServingStatus::Serving, || {}).await;
    let named = health(&client, "keyward.v1.ApiKeyService").await;
    assert_eq!(named.unwrap(), ServingStatus::Serving);
    let unknown = health(&client, "keyward.v1.Nothing").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    // Time runs away from every heartbeat.
    until(&client, ServingStatus::NotServing, || {
        local.clock.step_boot(10)
    })
    .await;
    until(&client, ServingStatus::Serving, || {}).await;
    let named = health(&client, "keyward.v1.ApiKeyService").await;
    assert_eq!(named.unwrap(), ServingStatus::Serving);
}

/// Asks one version of reflection for the services, and for the files of a method and of the details
/// of errors.
macro_rules! reflected {
    ($version:ident, $channel:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

        let symbols = [
            "keyward.v1.ApiKeyService.Revoke",
            "google.rpc.Status",
            "google.rpc.ErrorInfo",
            "google.rpc.BadRequest",
            "google.rpc.RetryInfo",
        ];
        let list = MessageRequest::ListServices(String::new());
        let symbols = symbols.map(|symbol| MessageRequest::FileContainingSymbol(symbol.to_owned()));
        let questions = std::iter::once(list).chain(symbols);
        let requests: Vec<_> = questions
            .map(|question| ServerReflectionRequest {
                message_request: Some(question),
                ..Default::default()
            })
            .collect();
        let mut client = ServerReflectionClient::new($channel.clone());
        let stream = client
            .server_reflection_info(tokio_stream::iter(requests))
            .await;
        let mut replies = stream.unwrap().into_inner();
        let (mut services, mut files) = (Vec::new(), 0);
        while let Some(reply) = replies.message().await.unwrap() {
            match reply.message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => {
                    services.extend(list.service.into_iter().map(|service| service.name));
                }
                MessageResponse::FileDescriptorResponse(found) => {
                    files += found.file_descriptor_proto.len();
                }
                other => panic!("{other:?}"),
            }
        }
        services.sort();
        (services, files)
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_lists_the_services_in_both_versions_and_takes_no_token() {
    let local = Local::start().await;
    let channel = Client::new(local.app.grpc_address(), None).await.channel;
    for (services, files) in [reflected!(v1, channel), reflected!(v1alpha, channel)] {
        for known in [
            "grpc.health.v1.Health",
            "keyward.v1.AdminService",
            "keyward.v1.ApiKeyService",
        ] {
            assert!(services.iter().any(|name| name == known), "{services:?}");
        }
        assert!(files >= 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_unimplemented() {
    let (_local, client) = start().await;
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/keyward.v1.ApiKeyService/Nothing");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let outcome = grpc.unary(tonic::Request::new(()), path, codec).await;
    assert_eq!(outcome.unwrap_err().code(), Code::Unimplemented);
}

/// The audit after `seen` rows: who did what to which key or account.
async fn audit(local: &Local, seen: &mut i64) -> Vec<(String, String, Option<String>)> {
    let mut store = sqlite(&local.database()).await;
    let rows = sqlx::query("SELECT id, actor, action, subject_id, account_id, detail FROM audit WHERE id > ? ORDER BY id")
        .bind(*seen)
        .fetch_all(&mut store)
        .await
        .unwrap();
    rows.iter()
        .map(|row| {
            *seen = row.get("id");
            let subject: Option<Vec<u8>> = row.get("subject_id");
            let subject = subject.map(|bytes| uuid::Uuid::from_slice(&bytes).unwrap().to_string());
            (row.get("actor"), row.get("action"), subject)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_action_is_audited() {
    let (local, client) = start().await;
    let mut seen = 0;
    let first = audit(&local, &mut seen).await;
    let first: Vec<_> = first
        .iter()
        .map(|(by, what, _)| (by.as_str(), what.as_str()))
        .collect();
    assert!(first.contains(&("keyward", "token_create")), "{first:?}");
    assert!(
        first.contains(&("keyward", "keyring_activate")),
        "{first:?}"
    );
    let bot = bot(&local).await;
    let made = audit(&local, &mut seen).await;
    assert_eq!(
        (made[0].0.as_str(), made[0].1.as_str()),
        ("admin", "token_create")
    );

    let issued = bot.send(recoverable("42")).await.unwrap();
    let id = issued.key.unwrap().key_id;
    let expect = async |seen: &mut i64, actor: &str, action: &str, subject: Option<&String>| {
        let rows = audit(&local, seen).await;
        let expected = (actor.to_owned(), action.to_owned(), subject.cloned());
        assert_eq!(rows, [expected]);
    };
    expect(&mut seen, "test", "issue", Some(&id)).await;
    assert_eq!(bot.send(slot("42")).await.unwrap().api_key, issued.api_key);
    expect(&mut seen, "test", "reveal", Some(&id)).await;
    client.disable(&id, true).await.unwrap();
    expect(&mut seen, "admin", "update", Some(&id)).await;
    let replaced = bot.send(replacing(&id)).await.unwrap();
    let successor = replaced.replacement.unwrap().key_id;
    let rows = audit(&local, &mut seen).await;
    let row = |action: &str, id: &String| ("test".to_owned(), action.to_owned(), Some(id.clone()));
    assert_eq!(rows, [row("replace", &id), row("issue", &successor)]);
    bot.send(replacing(&id)).await.unwrap();
    expect(&mut seen, "test", "reveal", Some(&successor)).await;
    client.revoke(&successor).await.unwrap();
    expect(&mut seen, "admin", "revoke", Some(&successor)).await;
    let (last, _) = bot.issue("42", "").await.unwrap();
    expect(&mut seen, "test", "issue", Some(&last)).await;
    client.send(by_account("42")).await.unwrap();
    expect(&mut seen, "admin", "revoke", Some(&last)).await;

    let own = made[0].2.clone().unwrap();
    client.send(revoking_token(&own)).await.unwrap();
    let rows = audit(&local, &mut seen).await;
    assert_eq!(
        rows,
        [("admin".to_owned(), "token_revoke".to_owned(), Some(own))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_not_audited_but_a_refusal_is() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let reporter = local.client_as(&[Role::Reporter]).await;
    let mut seen = 0;
    audit(&local, &mut seen).await;
    client.get(&id).await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    client.send(slot("42")).await.unwrap();
    client.disable(&id, false).await.unwrap();
    reporter.send(by_id(&id)).await.unwrap_err();
    reporter.send(by_text("kw_x")).await.unwrap();
    // Only the refusal is there: the reporter lacks the role for a revocation by id.
    eventually("the refusal is recorded", PATIENCE, || async {
        let mut from = seen;
        !audit(&local, &mut from).await.is_empty()
    })
    .await;
    let deny = ("test".to_owned(), "deny".to_owned(), None);
    assert_eq!(audit(&local, &mut seen).await, [deny]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_disappears_with_its_service() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyward.sock");
    let listen = keyward::config::Listen::Unix(path.clone());
    let local = Local::start_with(|settings| settings.listen = listen, |store| store).await;
    let client = keyward_client::Client::builder()
        .endpoint(format!("unix:{}", path.display()))
        .token_file(local.directory.path().join("admin.token"))
        .build()
        .unwrap();
    client.health().await.unwrap();
    let issued = client.issue(slot("42")).await.unwrap();
    assert!(issued.created);
    local.app.stop().await;
    assert!(!path.exists());
}
