//! The token and what was sent stay out of every failure; waits and repetitions keep their bounds.

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

fn is_clean(failure: &Failure) {
    for said in [format!("{failure}"), format!("{failure:?}")] {
        assert!(
            !said.contains("canary") && !said.contains("123456"),
            "{said}"
        );
    }
}

/// Answers every call with this.
async fn serve(status: StatusCode, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(move || async move { (status, body) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn a_failure_does_not_show_the_token() {
    // Nobody listens: the port was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = telegram(&url).introduce().await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable(_)), "{failure:?}");
    is_clean(&failure);

    // The connection ends without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let closes = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let failure = telegram(&url).introduce().await.unwrap_err();
    assert!(matches!(failure, Failure::Lost(_)), "{failure:?}");
    is_clean(&failure);
    closes.await.unwrap();

    // An answer that cannot be read.
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
async fn what_may_be_done_twice_is_repeated_and_what_may_not_is_not() {
    let lost = || Failure::Lost("x".to_owned());
    let unreachable = || Failure::Unreachable("x".to_owned());
    let too_many = |seconds| Failure::TooMany(Duration::from_secs(seconds));
    for (repeat, failure, expected) in [
        (Repeat::Yes, lost(), 3),
        (Repeat::Unsent, lost(), 1),
        (Repeat::No, lost(), 1),
        (Repeat::Yes, unreachable(), 3),
        (Repeat::Unsent, unreachable(), 3),
        (Repeat::Unsent, too_many(30), 3),
        (Repeat::Unsent, too_many(31), 1),
        (Repeat::No, too_many(1), 1),
        (Repeat::Yes, Failure::Blocked, 1),
        (Repeat::Yes, Failure::Gone, 1),
    ] {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            std::future::ready(Err(failure.clone()))
        };
        let answer: Result<(), _> = repeated(repeat, attempt, |_| std::future::ready(())).await;
        assert_eq!((answer, attempts.get()), (Err(failure.clone()), expected));
    }
}

#[tokio::test]
async fn a_wait_that_telegram_asks_for_is_kept() {
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
    assert_eq!(repeated(Repeat::Unsent, attempt, wait).await, Ok(5));
    assert_eq!(waited, [Duration::from_secs(7), FIRST_PAUSE * 2]);
}
