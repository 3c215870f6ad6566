//! No failure contains the token or a message; pauses and retries have bounds.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use tokio::net::TcpListener;

use super::*;

const TOKEN: &str = "123456:canary-of-the-token";

fn telegram(url: &str) -> Telegram {
    let token = Secret::new(TOKEN.to_owned());
    Telegram::new(&token, url, Arc::default()).unwrap()
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
    routed(Router::new().fallback(move || async move { (status, body) })).await
}

async fn routed(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
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

    let unreadable = || Failure::Lost("the answer cannot be read".to_owned());
    let refused = r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#;
    let busy = r#"{"ok":false,"error_code":429,"description":"x","parameters":{"retry_after":7}}"#;
    for (status, body, expected) in [
        (StatusCode::OK, "canary", unreadable()),
        (
            StatusCode::OK,
            r#"{"ok":true,"result":"canary"}"#,
            unreadable(),
        ),
        (StatusCode::UNAUTHORIZED, refused, Failure::Unauthorized),
        (
            StatusCode::TOO_MANY_REQUESTS,
            busy,
            Failure::TooMany(Duration::from_secs(7)),
        ),
        // A proxy before Telegram.
        (
            StatusCode::BAD_GATEWAY,
            "<html>canary</html>",
            Failure::Server(502),
        ),
        (
            StatusCode::GATEWAY_TIMEOUT,
            "<html>canary</html>",
            Failure::Lost("a proxy got no answer: status 504".to_owned()),
        ),
    ] {
        let url = serve(status, body).await;
        assert_eq!(telegram(&url).introduce().await, Err(expected));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_an_endless_answer_ends() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let elsewhere = routed(Router::new().fallback(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { r#"{"ok":true,"result":{"username":"x"}}"# }
    }));
    let to = elsewhere.await;
    let redirects = Router::new().fallback(move || async move {
        (StatusCode::TEMPORARY_REDIRECT, [("location", to.clone())])
    });
    let endless = Router::new().fallback(|| async {
        let chunk = || Ok::<_, std::io::Error>(vec![b' '; 1 << 20]);
        axum::body::Body::from_stream(futures_util::stream::repeat_with(chunk))
    });
    for router in [redirects, endless] {
        let failure = telegram(&routed(router).await).introduce().await;
        assert_eq!(
            failure,
            Err(Failure::Lost("the answer cannot be read".to_owned()))
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_call_is_repeated_while_telegram_fails_and_rarely_after_lost_answers() {
    let lost = || Failure::Lost("x".to_owned());
    let unreachable = || Failure::Unreachable("x".to_owned());
    let too_many = |seconds| Failure::TooMany(Duration::from_secs(seconds));
    for (attempts, failure, expected) in [
        (ONCE, unreachable(), 1),
        (ONCE, too_many(1), 1),
        (SHORTLY, unreachable(), SHORTLY),
        (SHORTLY, Failure::Server(502), SHORTLY),
        (SHORTLY, lost(), SHORTLY),
        (PATIENTLY, Failure::Server(502), PATIENTLY),
        (PATIENTLY, unreachable(), PATIENTLY),
        (PATIENTLY, too_many(30), PATIENTLY),
        (PATIENTLY, too_many(31), 1),
        (PATIENTLY, lost(), SHORTLY),
        (PATIENTLY, Failure::Blocked, 1),
        (PATIENTLY, Failure::Gone, 1),
    ] {
        let made = Cell::new(0);
        let attempt = || {
            made.set(made.get() + 1);
            std::future::ready(Err(failure.clone()))
        };
        let answer: Result<(), _> = repeated(attempts, attempt, |_| std::future::ready(())).await;
        assert_eq!((answer, made.get()), (Err(failure.clone()), expected));
    }
}

#[tokio::test]
async fn pauses_grow_to_a_bound_and_honour_retry_after() {
    let outcomes = [
        Err(Failure::TooMany(Duration::from_secs(7))),
        Err(Failure::Server(502)),
        Ok(5),
    ];
    let (mut outcomes, mut waited) = (outcomes.into_iter(), Vec::new());
    let attempt = || std::future::ready(outcomes.next().unwrap());
    let wait = |time| {
        waited.push(time);
        std::future::ready(())
    };
    assert_eq!(repeated(SHORTLY, attempt, wait).await, Ok(5));
    assert_eq!(waited[0], Duration::from_secs(7));
    for (pause, longest) in [
        (waited[1], FIRST_PAUSE * 2),
        (backoff(0), FIRST_PAUSE),
        (backoff(1), FIRST_PAUSE),
        (backoff(u32::MAX), MAX_PAUSE),
    ] {
        assert!((longest / 2..=longest).contains(&pause), "{pause:?}");
    }
}
