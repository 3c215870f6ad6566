//! The verbs `audit`: list, export, verify, and what they show after a change by hand.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use keyward_testkit::{PATIENCE, Process, eventually, sqlite_execute};
use serde_json::Value;

use super::harness::{Service, run, text};
use super::names::same_names;
use crate::BINARY;

/// The last seal in the log of the service, as `--head` takes it.
fn logged(process: &Process) -> Option<String> {
    let log = process.output();
    let mut seals = log.lines().filter(|line| line.contains("keyward::audit"));
    let seal = seals.next_back()?.split("seal=").nth(1)?;
    Some(seal.split_whitespace().next()?.to_owned())
}

async fn sealed(process: &Process) -> String {
    eventually("a seal is logged", PATIENCE, || async {
        logged(process).is_some()
    })
    .await;
    logged(process).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_listed_exported_and_verified() {
    let service = Service::start();
    let head = sealed(&service.process).await;
    let (id, _) = service.issue("42");
    service
        .call(&["revoke", &id, "--reason", "test"], "")
        .done();

    let listed = service
        .call(&["audit", "list", "--account", "42"], "")
        .done();
    let rows: Vec<_> = listed.lines().collect();
    assert!(
        rows[0].starts_with("TIME ") && rows[0].contains(" PEER_ADDRESS"),
        "{listed}"
    );
    assert!(
        rows[1].contains(" REVOKE ") && rows[2].contains(" ISSUE "),
        "{listed}"
    );
    let arguments = ["audit", "list", "--oldest-first", "--page-size", "1"];
    let page = service.json("ListAuditEventsResponse", &arguments, "");
    let next = text(&page["next_page_token"]);
    let more = [&arguments[..], &["--page-token", &next]].concat();
    let page = service.json("ListAuditEventsResponse", &more, "");
    assert_eq!(page["events"].as_array().unwrap().len(), 1);

    let lines = service
        .call(&["audit", "export", "--key-id", &id], "")
        .done();
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for event in &events {
        same_names(event, "AuditEvent");
    }
    assert_eq!(
        (&events[0]["action"], &events[1]["action"]),
        (&"ISSUE".into(), &"REVOKE".into())
    );
    assert_eq!(events[0]["peer_address"], "127.0.0.1");
    let none = ["audit", "export", "--action", "token_revoke"];
    assert_eq!(service.call(&none, "").done(), "");

    let verify = ["audit", "verify", "--head", &head];
    let found = service.json("VerifyAuditResponse", &verify, "");
    assert_eq!(found["fault"], Value::Null);
    assert_eq!(text(&found["head"]), head);
    assert_eq!(found["unsealed_events"], 2);
    for (wrong, flag) in [
        (&["audit", "verify", "--head", "7"][..], "--head: "),
        (&["audit", "list", "--caller", "two words"], "--caller: "),
        (
            &["audit", "list", "--action", "nothing"],
            "must be one of issue",
        ),
        (
            &[
                "audit",
                "export",
                "--follow",
                "--end-time",
                "2030-01-31T00:00:00Z",
            ],
            "--end-time",
        ),
    ] {
        let refused = service.call(wrong, "").refused(64);
        assert!(refused.contains(flag), "{refused}");
    }

    let path = service.directory.path().join("keyward-data/keyward.db");
    let altered = "DROP TRIGGER audit_fixed; UPDATE audit SET actor = 'nobody' WHERE position = 2";
    sqlite_execute(&path, altered).await;
    let outcome = service.call(&["audit", "verify"], "");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.out.contains("EVENT_ALTERED"), "{outcome:?}");
    assert!(outcome.err.contains("event 2 was altered"), "{outcome:?}");
    // The end is cut: only the seal in the log shows it.
    let cut = "DROP TRIGGER audit_deleted; DROP TRIGGER audit_seals_deleted;
               DELETE FROM audit; DELETE FROM audit_seals";
    sqlite_execute(&path, cut).await;
    let outcome = service.call(&["audit", "verify"], "");
    assert_eq!(outcome.code, 1, "nothing is proven: {outcome:?}");
    let outcome = service.call(&verify, "");
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.out.contains("END_CUT"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_following_export_prints_each_event_once() {
    let service = Service::start();
    let mut command = service.command(&["audit", "export", "--follow", "--account", "42"]);
    let mut export = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(export.stdout.take().unwrap()).lines();
    let mut printed = Vec::new();
    for name in ["one", "two", "three"] {
        let issued = service.json(
            "IssueResponse",
            &["issue", "--account", "42", "--name", name],
            "",
        );
        let line = tokio::task::block_in_place(|| lines.next().unwrap().unwrap());
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["key_id"], issued["key"]["key_id"]);
        printed.push(event["event_id"].clone());
    }
    printed.dedup();
    assert_eq!(printed.len(), 3);
    export.kill().unwrap();
    export.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_holds_over_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("keyward-data");
    let start = || Process::start(Process::command(BINARY, &data), &data);
    let mut process = start();
    let head = sealed(&process).await;
    let client = process.client().await;
    client.clone().issue("42", "").await.unwrap();
    process.kill();
    let mut process = start();
    let mut command =
        super::harness::command(directory.path(), &["audit", "verify", "--head", &head]);
    command.env("KEYWARD_ENDPOINT", format!("http://{}", process.grpc));
    let verified = run(command, "").done();
    assert!(verified.contains(&head), "{verified}");
    assert!(process.stop().success());
}
