//! The guide shows what `keyward top` prints. `UPDATE_DOCS=1` writes it.

use std::time::Duration;

use keyward_testkit::{Process, without_settings};
use regex::Regex;

use crate::readme::{BINARY, settle, with_table};
use crate::{read, readme};

const PAGE: &str = "docs/guide/monitor.md";

/// The text without what differs from run to run.
fn stencil(text: &str) -> String {
    let volatile = Regex::new(r"[0-9a-f]{8}-[0-9a-f-]+|\d{4}-\S+Z|[\d.]+( (ms|s|min)\b)?").unwrap();
    let wide = Regex::new("  +").unwrap();
    let text = volatile.replace_all(text, "*");
    wide.replace_all(&text, " ").into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_shows_what_top_prints() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = Process::start(Process::command(BINARY, &data), &data);
    let client = process.client().await;
    let (_, key) = client.issue("1", "").await.unwrap();
    let (id, _) = client.issue("2", "").await.unwrap();
    client.revoke(&id).await.unwrap();
    let busy = tokio::spawn(async move {
        loop {
            client.verify(&key).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut top = without_settings(BINARY);
    let endpoint = process.http.to_string();
    top.args(["top", "--once", "--http-endpoint", &endpoint]);
    let output = tokio::task::spawn_blocking(move || top.output())
        .await
        .unwrap()
        .unwrap();
    busy.abort();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed.replace(&endpoint, "127.0.0.1:9464");
    let block = format!("```text\n{printed}```\n");
    let page = read(PAGE);
    let expected = with_table(&page, "top", &block);
    if readme::updating() || stencil(&page) != stencil(&expected) {
        settle(PAGE, &expected);
    }
}
