//! Telemetry of the real binary: the side port, and spans for a collector.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use keyward_ops::Metrics;
use keyward_proto::v1::Verdict;
use keyward_testkit::requests::verifying;
use keyward_testkit::{Client, PATIENCE, PortServer, Process, eventually, http_ask};
use tonic::Request;

use crate::BINARY;
use crate::collector::{Span, path, spans};

/// Status and body of a GET.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = http_ask(address, "GET", path, &[], "").await.unwrap();
    (answer.status, answer.body)
}

/// All samples by name and labels. Fails on text that is not in the OpenMetrics format.
async fn samples(address: SocketAddr) -> BTreeMap<String, f64> {
    let (status, text) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let sample = regex::Regex::new(
        r#"^([a-z0-9_]+(?:\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})?) (-?[0-9.e+-]+)$"#,
    )
    .unwrap();
    let comment = regex::Regex::new(r"^# (EOF|(HELP|TYPE|UNIT) [a-z0-9_]+ \S.*)$").unwrap();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !comment.is_match(line)) {
        let found = sample
            .captures(line)
            .unwrap_or_else(|| panic!("no sample: {line}"));
        let value = found[2].parse().unwrap();
        assert_eq!(
            samples.insert(found[1].to_owned(), value),
            None,
            "twice: {line}"
        );
    }
    samples
}

pub(crate) fn start(directory: &Path, flags: &[&str]) -> Process {
    let data = directory.join("data");
    let mut command = Process::command(BINARY, &data);
    command.args(flags);
    Process::start(command, &data)
}

/// A key that lives, is judged, and dies; and some calls that go wrong.
pub(crate) async fn traffic(client: &Client) -> String {
    let (id, key) = client.issue("42", "").await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    }
    assert_eq!(client.verify("garbage").await.unwrap(), Verdict::Malformed);
    client.revoke(&id).await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    assert!(client.issue("", "").await.is_err());
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn the_side_port_shows_every_metric_of_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(directory.path(), &[]);
    let before = samples(process.http).await;
    traffic(&process.client().await).await;
    let after = samples(process.http).await;
    let table = Metrics::table();
    let named: Vec<_> = table
        .lines()
        .skip(2)
        // There is no webhook here.
        .filter(|row| !row.contains("| webhook"))
        .map(|row| row.split('`').nth(1).unwrap())
        .collect();
    assert!(named.len() > 10, "{table}");
    for name in &named {
        let shown = |sample: &String| {
            let sample = sample.split('{').next().unwrap();
            sample == *name
                || ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|s| sample.strip_suffix(s) == Some(name))
        };
        assert!(after.keys().any(shown), "{name} is not in {after:#?}");
    }
    let moved = |sample: &str| after[sample] - before.get(sample).unwrap_or(&0.0);
    for (sample, by) in [
        ("keyward_rpc_total{method=\"Verify\",code=\"OK\"}", 5.0),
        ("keyward_rpc_total{method=\"Issue\",code=\"OK\"}", 1.0),
        (
            "keyward_rpc_total{method=\"Issue\",code=\"INVALID_ARGUMENT\"}",
            1.0,
        ),
        (
            "keyward_rpc_duration_seconds_count{method=\"Verify\",code=\"OK\"}",
            5.0,
        ),
        (
            "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",\
             rpc_method=\"keyward.v1.ApiKeyService/Issue\",\
             rpc_response_status_code=\"INVALID_ARGUMENT\"}",
            1.0,
        ),
        ("keyward_verify_total{verdict=\"VALID\"}", 3.0),
        ("keyward_verify_total{verdict=\"REVOKED\"}", 1.0),
        ("keyward_verify_total{verdict=\"MALFORMED\"}", 1.0),
        ("keyward_verify_garbage_total{kind=\"malformed\"}", 1.0),
        ("keyward_cache_total{cache=\"key\",outcome=\"hit\"}", 2.0),
        ("keyward_cache_total{cache=\"key\",outcome=\"miss\"}", 1.0),
        (
            "keyward_cache_total{cache=\"key\",outcome=\"refused\"}",
            1.0,
        ),
        (
            "keyward_store_call_duration_seconds_count{call=\"issue\",outcome=\"ok\"}",
            1.0,
        ),
        (
            "keyward_store_call_duration_seconds_count{call=\"find_key\",outcome=\"ok\"}",
            2.0,
        ),
        ("keyward_revoke_total{outcome=\"confirmed\"}", 1.0),
        ("keyward_revoke_wait_seconds_count", 1.0),
        ("keyward_applied_revision", 1.0),
        ("keyward_tombstones", 1.0),
        ("keyward_store_permits_refused_total", 0.0),
    ] {
        assert!(
            (moved(sample) - by).abs() < 0.1,
            "{sample} moved by {} instead of {by}",
            moved(sample)
        );
    }
    assert!(moved("keyward_tail_beats_total{outcome=\"fresh\"}") >= 1.0);
    assert!((after["keyward_fresh"] - 1.0).abs() < 0.1);
    let age = after["keyward_freshness_age_seconds"];
    assert!((0.0..15.0).contains(&age), "{age}");
    let build = format!(
        "keyward_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert!(after.contains_key(&build));
    eventually("the audit is sealed", PATIENCE, || async {
        samples(process.http).await["keyward_audit_sealing_total{outcome=\"done\"}"] >= 1.0
    })
    .await;
    assert!(process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_side_port_answers_probes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(directory.path(), &[]);
    assert_eq!(get(process.http, "/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(get(process.http, "/readyz").await, (200, "ok\n".to_owned()));
    let (status, version) = get(process.http, "/version").await;
    let version: serde_json::Value = serde_json::from_str(&version).unwrap();
    assert_eq!(
        (status, &version["version"]),
        (200, &env!("CARGO_PKG_VERSION").into())
    );
    for path in [
        "/metrics/",
        "/status",
        "/debug",
        "/keyward.v1.ApiKeyService/Verify",
    ] {
        assert_eq!(get(process.http, path).await.0, 404, "{path}");
    }
    assert!(process.stop().success());
    assert!(TcpStream::connect(process.http).is_err());
}

/// The spans that a collector gets from a service with this `trace_ratio` during `calls`, and all that it gets,
/// once the spans are complete.
async fn collected(
    ratio: &str,
    calls: impl AsyncFnOnce(&Process),
    are_complete: impl Fn(&[Span]) -> bool,
) -> (Vec<Span>, String) {
    let collector = PortServer::collector();
    let endpoint = format!("http://{}", collector.address());
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--otlp-endpoint", &endpoint, "--trace-ratio", ratio];
    let mut process = start(directory.path(), &flags);
    calls(&process).await;
    // The last spans are sent at the stop.
    let status = tokio::task::spawn_blocking(move || process.stop());
    assert!(status.await.unwrap().success());
    let arrived = || async { are_complete(&spans(&collector)) };
    eventually("all spans arrive", PATIENCE, arrived).await;
    (spans(&collector), collector.received())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_decides_whether_its_call_is_traced() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let calls = async |process: &Process| {
        let client = process.client().await;
        let key = traffic(&client).await;
        for flags in ["01", "00"] {
            let mut request = Request::new(verifying(&key));
            let parent = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
            let parent = parent.parse().unwrap();
            request.metadata_mut().insert("traceparent", parent);
            client.keys.clone().verify(request).await.unwrap();
        }
    };
    let (spans, _) = collected("0", calls, |spans| !spans.is_empty()).await;
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].text("name"), "keyward.v1.ApiKeyService/Verify");
    assert_eq!(spans[0].text("traceId"), TRACE);
    assert_eq!(spans[0].text("parentSpanId"), "b7ad6b7169203331");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_span_for_each_rpc_and_store_call() {
    let mut secrets = Vec::new();
    let calls = async |process: &Process| {
        secrets.push(process.token());
        secrets.push(traffic(&process.client().await).await);
    };
    let rpcs = |spans: &[Span]| {
        let of = |method: &str, code: &str| {
            let method = format!("keyward.v1.ApiKeyService/{method}");
            let is = |span: &&Span| {
                span.text("name") == method
                    && span.attribute("rpc.system.name") == Some("grpc")
                    && span.attribute("rpc.method") == Some(&method)
                    && span.attribute("rpc.response.status_code") == Some(code)
            };
            spans.iter().filter(is).count()
        };
        [
            of("Verify", "OK"),
            of("Issue", "INVALID_ARGUMENT"),
            of("Revoke", "OK"),
        ]
    };
    let (spans, sent) = collected("1", calls, |spans| rpcs(spans) == [5, 1, 1]).await;
    for call in ["issue", "revoke", "find_key", "find_token"] {
        let mut called = spans.iter().filter(|span| {
            span.text("name") == call
                && span.attribute("db.system.name") == Some("sqlite")
                && span.attribute("db.operation.name") == Some(call)
        });
        let span = called.next_back().unwrap();
        assert_eq!(span.attribute("error.type"), None, "{call}");
        let above = path(&spans, span);
        let is_under_an_rpc = above.len() == 2 && above[1].attribute("rpc.method").is_some();
        assert!(is_under_an_rpc, "{call} stands under no rpc");
    }
    assert!(spans.iter().all(|span| span.service == "keyward"));
    for secret in &secrets {
        assert!(!sent.contains(secret.as_str()), "a span holds a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_disturbs_nothing() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut process = start(
        directory.path(),
        &[
            "--otlp-endpoint",
            &format!("http://{free}"),
            "--otlp-signals=traces,metrics,logs",
            "--trace-ratio=1",
        ],
    );
    traffic(&process.client().await).await;
    assert!(process.stop().success());
    let log = process.output();
    for kind in ["spans", "metrics", "log records"] {
        let complaint = format!("cannot send {kind} to otlp_endpoint");
        let count = log.lines().filter(|line| line.contains(&complaint)).count();
        assert!(count <= 1, "{log}");
    }
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_connection_goes_to_the_least_loaded_thread() {
    let directory = tempfile::tempdir().unwrap();
    let process = start(directory.path(), &["--workers", "2"]);
    let mut clients = Vec::new();
    for open in 1..=8_usize {
        clients.push(process.client().await);
        clients[open - 1].verify("").await.unwrap();
        let samples = samples(process.http).await;
        let of = |worker: u8| samples[&format!("keyward_connections{{worker=\"{worker}\"}}")];
        let (one, other) = (of(0), of(1));
        assert_eq!(one + other, f64::from(u32::try_from(open).unwrap()));
        assert!((one - other).abs() <= 1.0, "{one} and {other}");
    }
}
