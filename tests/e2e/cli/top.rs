//! `keyward top` shows a real instance, in a pipe and in a terminal.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyward_proto::v1::RevokeRequest;
use keyward_testkit::{Client, PATIENCE, wait_until};
use regex::Regex;

use super::harness::{Service, alone};
use crate::BINARY;

/// A program that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Verifies a key until the task is dropped.
fn traffic(client: Client, key: String) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            client.verify(&key).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_rates_and_revocations_and_no_secret() {
    let service = Service::start();
    let endpoint = service.process.http.to_string();
    let (_, key) = service.issue("account-canary");
    let (id, _) = service.issue("another-canary");
    let busy = traffic(service.process.client().await, key.clone());
    let revoke = RevokeRequest {
        key_id: id.clone(),
        reason: "reason-canary".to_owned(),
        ..RevokeRequest::default()
    };
    service.process.client().await.send(revoke).await.unwrap();
    // Stdout of a test is no terminal, so one frame is printed.
    for arguments in [
        &["top", "--http-endpoint", &endpoint][..],
        &["top", "--once", "--http-listen", &endpoint],
    ] {
        let shown = service.call(arguments, "").done();
        for expected in [
            r"(?m)^state +fresh: this instance knows every change$",
            r"(?m)^freshness +[\d.]+ m?s of 15.0 s$",
            r"(?m)^verify +[1-9][\d.]*/s, VALID [1-9][\d.]*/s$",
            r"(?m)^failed +0/s$",
            r"(?m)^memory +[\d.]+ % of look-ups$",
            r"(?m)^redis +not used$",
            r"(?m)^near +0 near-caches, 0 streams broken, 0 refused$",
            r"(?m)^no webhook in the settings of this instance$",
            r"(?m)^embedded \(this one\) .*  15.4 s$",
            &format!(r"(?m)^{id}  1 +\d{{4}}-.*Z +[\d.]+ m?s +1 +0$"),
        ] {
            assert!(
                Regex::new(expected).unwrap().is_match(&shown),
                "{expected}\n{shown}"
            );
        }
        for secret in [&key[3..], &service.process.token()[4..], "canary", "\u{1b}"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    busy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_terminal_top_goes_on_until_it_is_interrupted() {
    let service = Service::start();
    let directory = tempfile::tempdir().unwrap();
    let screen = directory.path().join("screen");
    let endpoint = service.process.http;
    let terminal = Command::new("script")
        .args(["--quiet", "--return", "--flush", "--command"])
        .arg(format!(
            "stty cols 60 rows 12; exec {BINARY} top --http-endpoint {endpoint}"
        ))
        .arg(&screen)
        .current_dir(directory.path())
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script is installed");
    let mut terminal = Killed(terminal);
    let shown = || fs::read_to_string(&screen).unwrap_or_default();
    wait_until("three frames", PATIENCE, || {
        shown().matches("\x1b[Hkeyward ").count() >= 3
    });
    // A rate stands in each frame but the first.
    assert!(shown().matches("VALID ").count() >= 2, "{}", shown());
    service.process.pause();
    wait_until("the instance hangs", PATIENCE, || {
        shown().contains("does not answer: no answer")
    });
    service.process.go_on();
    let frames = shown().matches("VALID ").count();
    wait_until("it answers again", PATIENCE, || {
        shown().matches("VALID ").count() > frames
    });
    terminal
        .0
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"\x03")
        .unwrap();
    let status = terminal.0.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", shown());
    let shown = shown();
    let (start, end) = (
        shown.find("\x1b[?1049h"),
        shown.rfind("\x1b[?25h\x1b[?1049l"),
    );
    assert!(start.is_some() && start < end, "{shown}");
    let is_wide = |line: &str| {
        let escapes = Regex::new("\x1b\\[[?0-9]*[a-zA-Z]").unwrap();
        escapes.replace_all(line, "").trim_end().chars().count() > 60
    };
    let frames = &shown[start.unwrap()..end.unwrap()];
    assert!(!frames.lines().any(is_wide), "{shown}");
}

#[test]
fn top_says_why_nothing_is_shown() {
    let refused = alone(&["top", "--http-endpoint", "127.0.0.1:1"]).refused(1);
    assert!(
        refused.contains("127.0.0.1:1 does not answer: "),
        "{refused}"
    );
    assert!(
        refused.contains("check that the instance runs"),
        "{refused}"
    );
    let refused = alone(&["top", "--http-listen", "none"]).refused(64);
    assert!(
        refused.contains("name it with --http-endpoint"),
        "{refused}"
    );
    let service = Service::start();
    let grpc = service.process.grpc.to_string();
    alone(&["top", "--http-endpoint", &grpc]).refused(1);
}
