//! A real OpenTelemetry collector gets what Keyward and the bot send: one tree from the user's tap to Postgres,
//! metrics and logs.

use std::time::Duration;

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::{
    AgentProcess, Cluster, Front, FrontOptions, Options, PATIENCE, PortServer, eventually,
    http_ask, now, start_api,
};
use serde_json::Value;

use crate::BINARY;
use crate::story::Actor;
use crate::telemetry::{start, traffic};

/// A span, with the name of the program that sent it.
pub(crate) struct Span {
    pub(crate) service: String,
    json: Value,
}

impl Span {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        attribute(&self.json["attributes"], name)
    }

    /// The program, the name and the kind.
    fn what(&self) -> (&str, &str, i64) {
        let kind = self.json["kind"].as_i64().unwrap();
        (&self.service, self.text("name"), kind)
    }
}

const SERVER: i64 = 2;
const CLIENT: i64 = 3;
const CONSUMER: i64 = 5;

fn attribute<'v>(attributes: &'v Value, name: &str) -> Option<&'v str> {
    let mut all = attributes.as_array()?.iter();
    let found = all.find(|attribute| attribute["key"] == name)?;
    found["value"]["stringValue"].as_str()
}

/// All items of a signal, such as `resourceSpans`, `scopeSpans`, `spans`, each with the name of its program.
fn received(collector: &PortServer, [resources, scopes, items]: [&str; 3]) -> Vec<(String, Value)> {
    let text = collector.received();
    // The last line may be half written.
    let requests = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut found = Vec::new();
    for request in requests {
        let request: Value = request;
        for resource in request[resources].as_array().into_iter().flatten() {
            let attributes = &resource["resource"]["attributes"];
            let service = attribute(attributes, "service.name").unwrap();
            assert!(attribute(attributes, "service.instance.id").is_some());
            for scope in resource[scopes].as_array().unwrap() {
                let items = scope[items].as_array().unwrap().iter();
                found.extend(items.map(|item| (service.to_owned(), item.clone())));
            }
        }
    }
    found
}

pub(crate) fn spans(collector: &PortServer) -> Vec<Span> {
    let found = received(collector, ["resourceSpans", "scopeSpans", "spans"]).into_iter();
    found
        .map(|(service, json)| Span { service, json })
        .collect()
}

/// The span and all above it, up to the root.
pub(crate) fn path<'s>(spans: &'s [Span], mut span: &'s Span) -> Vec<&'s Span> {
    let mut path = vec![span];
    while !span.text("parentSpanId").is_empty() {
        let parent = span.text("parentSpanId");
        let mut above = spans.iter().filter(|other| other.text("spanId") == parent);
        let Some(found) = above.next() else {
            return path;
        };
        assert_eq!(found.text("traceId"), span.text("traceId"));
        path.push(found);
        span = found;
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_is_one_tree_from_the_tap_to_postgres() {
    let collector = PortServer::collector();
    let endpoint = format!("http://{}", collector.address());
    let signals = "traces,metrics,logs".to_owned();
    let options = Options {
        variables: vec![
            ("KEYWARD_OTLP_ENDPOINT", endpoint.clone()),
            ("KEYWARD_OTLP_SIGNALS", signals.clone()),
            // The bot alone decides what is traced.
            ("KEYWARD_TRACE_RATIO", "0".to_owned()),
        ],
        ..Options::default()
    };
    let mut cluster = Cluster::start(BINARY, 1, options);
    let mut front = Front::start(FrontOptions {
        for_bot: vec![cluster.grpc(0)],
        for_api: vec![cluster.grpc(0)],
        admin_token: cluster.directory().join("init/admin.token"),
        bot: vec![
            ("KEYWARD_BOT_OTLP_ENDPOINT", endpoint),
            ("KEYWARD_BOT_OTLP_SIGNALS", signals),
            ("KEYWARD_BOT_TRACE_RATIO", "1".to_owned()),
        ],
    });
    let actor = Actor::english(&front, 1001);
    let key = actor.open().await.key().unwrap().to_owned();
    assert_eq!(front.request(&key).await.status, 200);
    // What was not sent yet is sent at a stop.
    front.stop_bot();
    cluster.stop(0);

    let is_insert = |span: &&Span| {
        span.attribute("db.system.name") == Some("postgresql") && span.text("name") == "issue"
    };
    let is_logged = |text: &str| {
        let records = received(&collector, ["resourceLogs", "scopeLogs", "logRecords"]);
        records
            .iter()
            .any(|(service, record)| service == "keyward" && record["body"]["stringValue"] == text)
    };
    // The collector writes what it has received a moment later, and the log comes last.
    eventually("all is there", PATIENCE, || async {
        spans(&collector).iter().any(|span| is_insert(&span)) && is_logged("fresh: serving")
    })
    .await;
    let spans = spans(&collector);
    let insert = spans.iter().find(is_insert).unwrap();
    let found = path(&spans, insert);
    let shown: Vec<_> = found.iter().map(|span| span.what()).collect();
    let method = "keyward.v1.ApiKeyService/Issue";
    assert_eq!(
        shown,
        [
            ("keyward", "issue", CLIENT),
            ("keyward", method, SERVER),
            ("keyward-bot", method, CLIENT),
            ("keyward-bot", "tap", CONSUMER),
        ]
    );
    for span in &found[1..3] {
        assert_eq!(span.attribute("rpc.system.name"), Some("grpc"));
        assert_eq!(span.attribute("rpc.method"), Some(method));
        assert_eq!(span.attribute("rpc.response.status_code"), Some("OK"));
    }
    // The API's Verify was not traced, because nobody asked for it.
    assert!(
        spans
            .iter()
            .all(|span| !span.text("name").ends_with("/Verify"))
    );

    let metrics = received(&collector, ["resourceMetrics", "scopeMetrics", "metrics"]);
    let calls = metrics.iter().filter(|(service, metric)| {
        service == "keyward" && metric["name"] == "rpc.server.call.duration"
    });
    let mut points =
        calls.flat_map(|(_, metric)| metric["histogram"]["dataPoints"].as_array().unwrap());
    let verified = |point: &&Value| {
        attribute(&point["attributes"], "rpc.method") == Some("keyward.v1.ApiKeyService/Verify")
            && attribute(&point["attributes"], "rpc.response.status_code") == Some("OK")
    };
    let last = points.rfind(verified).unwrap();
    assert_eq!(last["count"], "1", "{last}");
    let is_sent = |program: &str, name: &str| {
        let mut all = metrics.iter();
        all.any(|(service, metric)| service == program && metric["name"] == name)
    };
    assert!(is_sent("keyward", "keyward_verify_total"));
    assert!(is_sent("keyward-bot", "keyward_bot_updates_total"));

    let text = collector.received();
    for secret in [&key, cluster.token(), front.telegram.token()] {
        assert!(!text.contains(secret), "a secret was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_through_an_agent_are_one_tree_each() {
    let collector = PortServer::collector();
    let endpoint = format!("http://{}", collector.address());
    let directory = tempfile::tempdir().unwrap();
    // The agent alone decides what is traced.
    let flags = ["--otlp-endpoint", &endpoint, "--trace-ratio=0"];
    let mut process = start(directory.path(), &flags);
    let admin = process.client().await;
    let token = directory.path().join("agent.token");
    let roles = [Role::NearCache, Role::Verifier];
    std::fs::write(&token, admin.token("agent", &roles).await.unwrap()).unwrap();
    let keyward = format!("http://{}", process.grpc);
    let mut command = AgentProcess::command(BINARY, &keyward, &token);
    AgentProcess::with_sockets(&mut command, directory.path());
    command
        .args(["--otlp-endpoint", &endpoint, "--trace-ratio=1"])
        .arg("--otlp-signals=traces,metrics,logs");
    let mut agent = AgentProcess::start(command);
    let (id, key) = admin.issue("42", "").await.unwrap();
    let program = agent.client(None).await;
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    let reader = agent.client(Some(&process.token())).await;
    reader.get(&id).await.unwrap();
    // What was not sent yet is sent at a stop.
    assert!(agent.stop().success() && process.stop().success());

    let (verify, get) = (
        "keyward.v1.ApiKeyService/Verify",
        "keyward.v1.ApiKeyService/Get",
    );
    let above = |method: &str| {
        let spans = spans(&collector);
        let mut served = spans.iter().filter(|span| span.text("name") == method);
        let served = served.find(|span| span.what() == ("keyward", method, SERVER))?;
        let path = path(&spans, served);
        let owned = path
            .iter()
            .map(|span| (span.what().0.to_owned(), span.what().2));
        Some(owned.collect::<Vec<_>>())
    };
    let expected = |path: &[(&str, i64)]| {
        let owned = path
            .iter()
            .map(|(service, kind)| ((*service).to_owned(), *kind));
        Some(owned.collect::<Vec<_>>())
    };
    let (served, asked, sent) = (
        ("keyward", SERVER),
        ("keyward-agent", SERVER),
        ("keyward-agent", CLIENT),
    );
    eventually("the spans are there", PATIENCE, || async {
        above(verify) == expected(&[served, sent, asked])
            && above(get) == expected(&[served, asked])
    })
    .await;
    let is_sent = || {
        let metrics = received(&collector, ["resourceMetrics", "scopeMetrics", "metrics"]);
        let logs = received(&collector, ["resourceLogs", "scopeLogs", "logRecords"]);
        let is_metric = |(service, metric): &(String, Value)| {
            service == "keyward-agent" && metric["name"] == "keyward_agent_verify_total"
        };
        let is_log = |(service, record): &(String, Value)| {
            service == "keyward-agent" && record["body"]["stringValue"] == "stopped"
        };
        metrics.iter().any(is_metric) && logs.iter().any(is_log)
    };
    eventually("metrics and logs are there", PATIENCE, || async {
        is_sent()
    })
    .await;
    let text = collector.received();
    for secret in [&key, &process.token()] {
        assert!(!text.contains(secret), "a secret was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_delays_nothing() {
    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        "--otlp-endpoint",
        &endpoint,
        "--otlp-signals=traces,metrics,logs",
        "--trace-ratio=1",
    ];
    let mut process = start(directory.path(), &flags);
    let client = process.client().await;
    let key = traffic(&client).await;
    // More spans than the queue holds.
    let calls = (0..3_000).map(|_| client.verify(&key));
    for verdict in futures_util::future::join_all(calls).await {
        assert_eq!(verdict.unwrap(), Verdict::Revoked);
    }
    let begun = now();
    assert!(process.stop().success());
    // The last telemetry has 3 seconds in all.
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_that_waited_for_a_near_cache_says_so() {
    let collector = PortServer::collector();
    let endpoint = format!("http://{}", collector.address());
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        "--otlp-endpoint",
        &endpoint,
        "--trace-ratio=1",
        "--max-staleness=2s",
    ];
    let mut process = start(directory.path(), &flags);
    let client = process.client().await;
    let roles = [Role::NearCache, Role::Verifier];
    let token = directory.path().join("api.token");
    std::fs::write(&token, client.token("api", &roles).await.unwrap()).unwrap();
    let keyward = format!("http://{}", process.grpc);
    let api = start_api(&[keyward], &token, &["--near-cache", "--rate", "1000000"]);
    let (id, key) = client.issue("42", "").await.unwrap();
    let address = api.ready().parse().unwrap();
    let headers = [("apikey", key.as_str())];
    eventually("the near-cache answers", PATIENCE, || async {
        let answer = http_ask(address, "GET", "/v2/orders", &headers, "").await;
        assert_eq!(answer.unwrap().status, 200);
        let near = http_ask(address, "GET", "/near-cache", &[], "").await;
        let near: Value = serde_json::from_str(&near.unwrap().body).unwrap();
        near["hits"].as_u64() > Some(0)
    })
    .await;
    api.pause();
    client.revoke(&id).await.unwrap();
    api.go_on();
    assert!(process.stop().success());
    let has_waited = |span: &Span| {
        let attributes = span.json["attributes"].as_array().into_iter().flatten();
        let mut waited = attributes.filter(|one| one["key"] == "near_caches_waited_seconds");
        let seconds = waited
            .next()
            .and_then(|one| one["value"]["doubleValue"].as_f64());
        seconds.is_some_and(|seconds| seconds > 1.0)
    };
    eventually("the wait is there", PATIENCE, || async {
        let spans = spans(&collector);
        let found = spans
            .iter()
            .find(|span| span.text("name") == "wait" && has_waited(span));
        found.is_some_and(|span| {
            let above = path(&spans, span);
            above
                .last()
                .is_some_and(|root| root.text("name").ends_with("/Revoke"))
        })
    })
    .await;
}
