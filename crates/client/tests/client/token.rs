//! A token file that changes while the client runs.

use std::sync::Arc;

use keyward_client::{Client, ErrorKind, Secret, Verdict, VerifyRequest};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Code;

use crate::fake::{Fake, PATIENCE, status};

fn key() -> VerifyRequest {
    VerifyRequest::new(Secret::new("kw_a"))
}

fn client(fake: &Fake, file: &std::path::Path) -> Client {
    let builder = Client::builder().endpoint(fake.url()).token_file(file);
    builder.timeout(PATIENCE).build().unwrap()
}

/// Refuses every token but `accepted`.
fn accept(fake: &Fake, accepted: &'static str) {
    fake.script.before(move |seen| {
        if seen.text("authorization") == Some(accepted) {
            Ok(())
        } else {
            Err(status(Code::Unauthenticated, "TOKEN_INVALID"))
        }
    });
}

#[tokio::test]
async fn rotated_token_is_used_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "kwt_old\n").unwrap();
    let fake = Fake::start().await;
    let client = client(&fake, &file);
    accept(&fake, "Bearer kwt_old");
    assert!(matches!(client.verify(key()).await, Ok(Verdict::Valid(_))));

    // The file changes first, then the old token ends: the next call succeeds.
    std::fs::write(&file, "kwt_new\n").unwrap();
    accept(&fake, "Bearer kwt_new");
    let verdict = client.verify(key()).await;
    assert!(matches!(verdict, Ok(Verdict::Valid(_))), "{verdict:?}");

    // Without a new token, the call is not repeated.
    accept(&fake, "Bearer kwt_other");
    let calls = fake.script.calls();
    let error = client.verify(key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert_eq!(fake.script.calls(), calls + 1);
}

#[tokio::test]
async fn token_file_is_read_while_calls_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "kwt_old").unwrap();
    let fake = Fake::start().await;
    let client = client(&fake, &file);
    let last = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&last);
    fake.script.before(move |call| {
        *seen.lock() = call.text("authorization").unwrap().to_owned();
        Ok(())
    });
    std::fs::write(&file, "").unwrap();
    let start = Instant::now();
    while start.elapsed() < std::time::Duration::from_millis(1300) {
        assert!(matches!(client.verify(key()).await, Ok(Verdict::Valid(_))));
        assert_eq!(*last.lock(), "Bearer kwt_old");
    }
    std::fs::write(&file, "kwt_new").unwrap();
    while *last.lock() != "Bearer kwt_new" {
        assert!(matches!(client.verify(key()).await, Ok(Verdict::Valid(_))));
        assert!(start.elapsed() < PATIENCE, "the new token is not used");
    }
}

#[tokio::test]
async fn own_headers_are_on_each_attempt_and_replace_no_token() {
    let fake = Fake::start().await;
    let attempts = Arc::<Mutex<u64>>::default();
    let counted = Arc::clone(&attempts);
    let builder = Client::builder().endpoint(fake.url());
    let client = builder
        .token(Secret::new("kwt_test"))
        .timeout(PATIENCE)
        .headers(move |headers| {
            let mut attempts = counted.lock();
            *attempts += 1;
            headers.insert("x-attempt", (*attempts).into());
            headers.insert("authorization", "Bearer kwt_other".parse().unwrap());
        })
        .build()
        .unwrap();
    fake.script.before(|seen| {
        assert_eq!(seen.text("authorization"), Some("Bearer kwt_test"));
        match seen.text("x-attempt") {
            Some("1") => Err(status(Code::Unavailable, "NOT_FRESH")),
            Some("2") => Ok(()),
            other => panic!("{other:?}"),
        }
    });
    let verdict = client.verify(key()).await;
    assert!(matches!(verdict, Ok(Verdict::Valid(_))), "{verdict:?}");
    assert_eq!(*attempts.lock(), 2);
}
