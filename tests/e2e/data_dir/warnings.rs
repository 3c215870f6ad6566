//! Warnings about a store that does not fit this start.

use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{eventually, http_get};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_time_far_ahead_is_told_in_the_log_and_by_readyz() {
    let (_directory, data_dir) = fresh_directory();
    for (sql, warns) in [
        ("UPDATE store_clock SET newest = newest + 30000000", false),
        ("UPDATE store_clock SET newest = newest + 600000000", true),
    ] {
        assert!(serve(&data_dir).stop().success());
        by_hand(&data_dir, sql).await;
        let mut process = serve(&data_dir);
        let ready = http_get(process.http, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        for told in [process.output(), ready] {
            let is_told = told.contains("the store's time is ");
            assert_eq!(is_told, warns, "{sql}: {told}");
        }
        assert!(process.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_prefix_that_the_settings_lack_are_counted_at_the_start() {
    let (_directory, data_dir) = fresh_directory();
    let with_prefixes = |prefixes: &str| {
        let mut command = Process::command(BINARY, &data_dir);
        command.env("KEYWARD_KEY_PREFIXES", prefixes);
        Process::start(command, &data_dir)
    };
    let mut process = with_prefixes("old");
    let client = process.client().await;
    let (_, key) = client.issue("1", "").await.unwrap();
    client.issue("2", "").await.unwrap();
    let (revoked, _) = client.issue("3", "").await.unwrap();
    client.revoke(&revoked).await.unwrap();
    drop(client);
    assert!(process.stop().success());

    let mut process = with_prefixes("kw");
    let expected =
        "2 keys begin with old_, and Verify calls them MALFORMED: add old to `key_prefixes`";
    eventually("the warning", Duration::from_secs(30), async || {
        process.output().contains(expected)
    })
    .await;
    let verdict = process.client().await.verify(&key).await.unwrap();
    assert_eq!(verdict, Verdict::Malformed);
    assert!(process.stop().success());

    let mut process = with_prefixes("kw,old");
    let verdict = process.client().await.verify(&key).await.unwrap();
    assert_eq!(verdict, Verdict::Valid);
    assert!(process.stop().success());
    let said = process.output();
    assert!(!said.contains("begin with"), "{said}");
}
