//! No failure contains the token or a message; pauses and retries have bounds.

use std::cell::Cell;

use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;

use super::*;

const TOKEN: &str = "123456:canary-of-the-token";

fn telegram(url: &str) -> Telegram {
    let token = Secret::new(TOKEN.to_owned());
    Telegram::new(&token, url, Arc::new(Metrics::new())).unwrap()
}

fn assert_clean(failure: &Failure) {
    for text in [format!("{failure}"), format!("{failure:?}")] {
        assert!(
            !text.contains("canary") && !text.contains("123456"),
            "{text}"
        );
    }
}

/// A server that gives every call the same answer. Returns its URL.
async fn serve(status: StatusCode, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(move || async move { (status, body) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_failure_does_not_contain_the_token() {
    // Nothing listens on this port.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = telegram(&url).introduce().await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    assert_clean(&failure);

    // The connection closes without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closes = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let failure = telegram(&url).introduce().await.unwrap_err();
    assert!(matches!(failure, Failure::Lost(_)), "{failure:?}");
    assert_clean(&failure);
    closes.await.unwrap();

    // The answer is unreadable.
    let url = serve(StatusCode::OK, "canary").await;
    let failure = telegram(&url).introduce().await.unwrap_err();
    assert_eq!(
        failure,
        Failure::Lost("the answer cannot be read".to_owned())
    );

    let url = serve(
        StatusCode::UNAUTHORIZED,
        r#"{"ok":false,"description":"Unauthorized"}"#,
    )
    .await;
    assert_eq!(telegram(&url).introduce().await, Err(Failure::Unauthorized));
}

#[tokio::test]
async fn only_safe_calls_are_repeated() {
    let lost = || Failure::Lost("x".to_owned());
    let unreachable = || Failure::Unreachable("x".to_owned());
    let too_many = |seconds| Failure::TooMany(Duration::from_secs(seconds));
    for (retry, failure, expected) in [
        (Retry::Always, lost(), 3),
        (Retry::IfUnsent, lost(), 1),
        (Retry::Never, lost(), 1),
        (Retry::Always, unreachable(), 3),
        (Retry::IfUnsent, unreachable(), 3),
        (Retry::IfUnsent, too_many(30), 3),
        (Retry::IfUnsent, too_many(31), 1),
        (Retry::Never, too_many(1), 1),
        (Retry::Always, Failure::Blocked, 1),
        (Retry::Always, Failure::Gone, 1),
    ] {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(Err(failure.clone()))
        };
        let answer: Result<(), _> = repeated(retry, attempt, |_| std::future::ready(())).await;
        assert_eq!((answer, attempts.get()), (Err(failure.clone()), expected));
    }
}

#[tokio::test]
async fn retry_after_of_telegram_is_honoured() {
    let too_many = Failure::TooMany(Duration::from_secs(7));
    let (attempts, mut waited) = (Cell::new(0), Vec::new());
    let attempt = || {
        attempts.set(attempts.get() + 1);
        std::future::ready(match attempts.get() {
            1 => Err(too_many.clone()),
            2 => Err(Failure::Unreachable("x".to_owned())),
            _ => Ok(5),
        })
    };
    let wait = |time| {
        waited.push(time);
        std::future::ready(())
    };
    assert_eq!(repeated(Retry::IfUnsent, attempt, wait).await, Ok(5));
    assert_eq!(waited, [Duration::from_secs(7), FIRST_PAUSE * 2]);
}
