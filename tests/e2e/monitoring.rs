//! A real Prometheus reads what the dashboard and the alerts of `deploy/` ask for.

use std::collections::BTreeSet;

use keyward_testkit::{PATIENCE, PortServer, Receiver, eventually, http_ask};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::telemetry::{start, traffic};

/// The panels that an embedded store without Redis, faults, and tokens that expire leaves empty.
const EMPTY: [&str; 3] = [
    "Redis",
    "Store calls that failed",
    "Time left of callers' tokens and certificates",
];

/// The data of an answer of Prometheus.
async fn get(prometheus: &PortServer, path: &str) -> Value {
    let answer = http_ask(prometheus.address(), "GET", path, &[], "").await;
    let answer = answer.unwrap();
    let mut json: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json["status"], "success", "{path}: {json}");
    json["data"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_what_dashboard_and_alerts_ask_for() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let webhooks = receiver.webhook("a", directory.path());
    let process = start(directory.path(), &["--webhooks", &webhooks]);
    let prometheus = PortServer::prometheus(&[process.http]);
    let dashboard = include_str!("../../deploy/grafana/keyward.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let client = process.client().await;
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let panels: Vec<_> = panels.filter(|panel| panel["type"] != "row").collect();
    assert!(panels.len() > 10);
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        let mut is_drawn = false;
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$job", ".*")
                .replace("$instance", ".*");
            let path = utf8_percent_encode(&query, NON_ALPHANUMERIC);
            let path = format!("/api/v1/query?query={path}");
            if EMPTY.contains(&title) {
                get(&prometheus, &path).await;
                continue;
            }
            // A rate needs two scrapes with traffic between them.
            eventually(&format!("{title} is drawn"), PATIENCE, || async {
                traffic(&client).await;
                let found = get(&prometheus, &path).await;
                !found["result"].as_array().unwrap().is_empty()
            })
            .await;
            is_drawn = true;
        }
        assert_ne!(is_drawn, EMPTY.contains(&title), "{title}");
    }
    let rules = get(&prometheus, "/api/v1/rules").await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let states: BTreeSet<_> = rules
        .iter()
        .map(|rule| {
            (
                rule["health"].as_str().unwrap(),
                rule["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(states, [("ok", "inactive")].into(), "{rules:#?}");
}
