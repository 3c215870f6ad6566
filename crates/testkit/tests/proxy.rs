//! The proxy causes only the requested faults.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyward_testkit::{PATIENCE, Postgres, Proxy, Swallowed, User};
use sqlx::postgres::PgListener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The time after which missing data counts as lost.
const SHORT: Duration = Duration::from_millis(300);

/// A server that echoes its input.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    address
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

async fn hear(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.unwrap().unwrap();
    assert_eq!(bytes, text.as_bytes());
}

/// Whether nothing arrives, not even the end of the stream.
async fn is_silent(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(SHORT, stream.read_u8()).await.is_err()
}

/// Whether the other side has closed the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
    read.is_ok_and(|read| read.is_err())
}

#[tokio::test]
async fn all_data_and_its_end_pass() {
    let proxy = Proxy::to(echo().await);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut stream, "hello").await;
    hear(&mut stream, "hello").await;
    let long = "much ".repeat(100_000);
    let (mut from, mut to) = stream.split();
    let mut heard = String::new();
    let (said, read) = tokio::join!(
        async {
            to.write_all(long.as_bytes()).await?;
            to.shutdown().await
        },
        from.read_to_string(&mut heard)
    );
    said.unwrap();
    read.unwrap();
    assert!(heard == long);
}

#[tokio::test]
async fn a_black_hole_holds_everything_back_and_then_lets_it_pass() {
    let proxy = Proxy::to(echo().await);
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut old, "before").await;
    hear(&mut old, "before").await;

    proxy.black_hole(true);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    for stream in [&mut old, &mut new] {
        say(stream, "during").await;
        stream.shutdown().await.unwrap();
        assert!(is_silent(stream).await);
    }
    proxy.black_hole(false);
    for stream in [&mut old, &mut new] {
        hear(stream, "during").await;
        assert!(is_closed(stream).await);
    }
}

#[tokio::test]
async fn a_cut_closes_only_open_connections() {
    let proxy = Proxy::to(echo().await);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream, "hello").await;
        hear(&mut stream, "hello").await;
        open.push(stream);
    }
    proxy.cut();
    for stream in &mut open {
        assert!(is_closed(stream).await);
    }
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut stream, "again").await;
    hear(&mut stream, "again").await;
    proxy.black_hole(true);
    proxy.cut();
    assert!(is_closed(&mut stream).await, "also in a black hole");
}

#[tokio::test]
async fn refused_connections_are_closed_and_open_ones_go_on() {
    let proxy = Proxy::to(echo().await);
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut old, "hello").await;
    hear(&mut old, "hello").await;
    proxy.refuse(true);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(is_closed(&mut new).await);
    say(&mut old, "still here").await;
    hear(&mut old, "still here").await;
    proxy.refuse(false);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    say(&mut new, "hello").await;
    hear(&mut new, "hello").await;
}

/// The end of the stream is also lost, so the other side still waits.
#[tokio::test]
async fn a_half_open_connection_loses_one_way_and_stays_open() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap());
    for swallowed in [Swallowed::Requests, Swallowed::Answers] {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        say(&mut client, "hello").await;
        hear(&mut server, "hello").await;
        say(&mut server, "welcome").await;
        hear(&mut client, "welcome").await;

        proxy.half_open(Some(swallowed));
        let (lost, passing) = match swallowed {
            Swallowed::Requests => (&mut client, &mut server),
            Swallowed::Answers => (&mut server, &mut client),
        };
        say(lost, "lost").await;
        assert!(is_silent(passing).await, "{swallowed:?}");
        say(passing, "this arrives").await;
        hear(lost, "this arrives").await;
        proxy.half_open(None);
        say(lost, "this, too").await;
        hear(passing, "this, too").await;

        proxy.half_open(Some(swallowed));
        lost.shutdown().await.unwrap();
        assert!(is_silent(passing).await, "{swallowed:?}: the end");
        proxy.cut();
        assert!(is_closed(passing).await);
        proxy.half_open(None);
    }
}

#[tokio::test]
async fn garbage_replaces_every_byte_of_a_response() {
    let proxy = Proxy::to(echo().await);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.garbage(true);
    let mut heard = Vec::new();
    for text in ["+PONG\r\n", "$5\r\nvalue\r\n"] {
        say(&mut stream, text).await;
        let mut bytes = vec![0; text.len()];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
        read.unwrap().unwrap();
        assert!(bytes.iter().all(|byte| !byte.is_ascii()), "{bytes:?}");
        heard.extend(bytes);
    }
    heard.sort_unstable();
    heard.dedup();
    assert!(heard.len() > 9, "it hardly varies: {heard:?}");
    assert!(is_silent(&mut stream).await);
    proxy.garbage(false);
    say(&mut stream, "+PONG\r\n").await;
    hear(&mut stream, "+PONG\r\n").await;
}

#[tokio::test]
async fn an_unreachable_server_closes_the_connection() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy = Proxy::to(address);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn dropping_a_proxy_closes_its_connections() {
    let proxy = Proxy::to(echo().await);
    let address = proxy.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    say(&mut stream, "hello").await;
    hear(&mut stream, "hello").await;
    drop(proxy);
    assert!(is_closed(&mut stream).await);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn notifications_are_lost_while_all_else_passes() {
    let database = Postgres::shared().fresh_database("notify").await;
    let proxy = Proxy::to(database.address());
    let url = database.url_via(User::Service, proxy.address());
    let mut listener = PgListener::connect(&url).await.unwrap();
    listener.listen("news").await.unwrap();
    let notify = async |payload: &str| {
        database.execute(&format!("NOTIFY news, '{payload}'")).await;
    };

    notify("first").await;
    assert_eq!(heard(&mut listener).await.as_deref(), Some("first"));
    assert_eq!(proxy.dropped(), 0);
    proxy.drop_notifications(true);
    notify("second").await;
    assert_eq!(heard(&mut listener).await, None);
    assert_eq!(proxy.dropped(), 1);
    // The same connection still responds: nothing else was lost.
    let answer: i32 = sqlx::query_scalar("SELECT 42")
        .fetch_one(&mut listener)
        .await
        .unwrap();
    assert_eq!(answer, 42);
    proxy.drop_notifications(false);
    notify("third").await;
    assert_eq!(heard(&mut listener).await.as_deref(), Some("third"));
}

async fn heard(listener: &mut PgListener) -> Option<String> {
    let wait = tokio::time::timeout(SHORT, listener.try_recv())
        .await
        .ok()?;
    let notification = wait.unwrap().unwrap();
    Some(notification.payload().to_owned())
}
