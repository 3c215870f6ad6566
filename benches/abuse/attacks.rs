//! The attacks, in a process of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use keyward_proto::v1;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const VERIFY: &str = "/keyward.v1.ApiKeyService/Verify";
const BATCH: &str = "/keyward.v1.ApiKeyService/VerifyBatch";
const LIST: &str = "/keyward.v1.ApiKeyService/List";
const ISSUE: &str = "/keyward.v1.ApiKeyService/Issue";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// What an attack does, and its number of connections and of streams on each.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    connections: usize,
    streams: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Unfinished requests: path, announced length, sent bytes.
    Unfinished(&'static str, u32, usize),
    /// Unfinished requests with headers of this size.
    Headers(usize),
    /// Connections without a byte.
    Idle,
    /// List, and the answers stay unread.
    Unread,
    /// Batches of empty keys.
    EmptyKeys,
    /// Issue with a mebibyte of scopes.
    Scopes,
    /// Headers without end on the side port.
    SideHeaders,
    /// Scrapes whose answers stay unread.
    SideUnread,
}

const fn attack(name: &'static str, connections: usize, streams: usize, kind: Kind) -> Attack {
    Attack {
        name,
        kind,
        connections,
        streams,
    }
}

pub(super) const ATTACKS: [Attack; 11] = [
    attack(
        "1 connection, 1,024 streams, unfinished 1 MiB messages",
        1,
        1_024,
        Kind::Unfinished(VERIFY, 1 << 20, 1_000_000),
    ),
    attack(
        "10 such connections",
        10,
        1_024,
        Kind::Unfinished(VERIFY, 1 << 20, 1_000_000),
    ),
    attack(
        "1 connection, the same on reflection with 4 MiB",
        1,
        1_024,
        Kind::Unfinished(REFLECTION, 4 << 20, 4_000_000),
    ),
    attack(
        "50 connections, unfinished 100 KiB messages",
        50,
        1_024,
        Kind::Unfinished(VERIFY, 100 << 10, 99_000),
    ),
    attack(
        "50 connections, 1,024 streams, headers of 12 KiB",
        50,
        1_024,
        Kind::Headers(12 << 10),
    ),
    attack("20,000 idle connections", 20_000, 1, Kind::Idle),
    attack(
        "a caller that never reads its List answers, 800 streams",
        1,
        800,
        Kind::Unread,
    ),
    attack(
        "a caller with 8 connections, batches of empty keys",
        8,
        16,
        Kind::EmptyKeys,
    ),
    attack(
        "a caller with 8 connections, 1 MiB of scopes",
        8,
        16,
        Kind::Scopes,
    ),
    attack(
        "side port: 2,000 clients with endless headers",
        2_000,
        1,
        Kind::SideHeaders,
    ),
    attack(
        "side port: 200 clients that scrape and do not read",
        200,
        1,
        Kind::SideUnread,
    ),
];

/// The attacked addresses and the token of a caller.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) token: String,
}

/// A gRPC message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat().into()
}

/// What each stream of an attack sends.
fn request(kind: Kind, target: &Target) -> (Request<()>, Bytes, bool) {
    let post = |path: &str| {
        Request::post(format!("http://keyward{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };
    let by_caller =
        |path: &str| post(path).header("authorization", format!("Bearer {}", target.token));
    let (request, body, is_complete) = match kind {
        Kind::Unfinished(path, announced, sent) => {
            let mut body = vec![0; sent];
            body[1..5].copy_from_slice(&announced.to_be_bytes());
            (post(path), body.into(), false)
        }
        Kind::Headers(bytes) => {
            let post = post(VERIFY).header("x-long", "x".repeat(bytes));
            (post, Bytes::new(), false)
        }
        Kind::Unread => {
            let listing = v1::ListRequest {
                account_id: "many".to_owned(),
                page_size: 1_000,
                ..Default::default()
            };
            (by_caller(LIST), framed(&listing.encode_to_vec()), true)
        }
        // The shortest encoding of an empty request is two bytes.
        Kind::EmptyKeys => (by_caller(BATCH), framed(&[0x0a, 0].repeat(500_000)), true),
        Kind::Scopes => {
            let scopes = vec!["x".to_owned(); 340_000];
            let issue = v1::IssueRequest {
                account_id: "42".to_owned(),
                scopes,
                ..Default::default()
            };
            (by_caller(ISSUE), framed(&issue.encode_to_vec()), true)
        }
        Kind::Idle | Kind::SideHeaders | Kind::SideUnread => unreachable!("they use no HTTP/2"),
    };
    (request.body(()).unwrap(), body, is_complete)
}

/// Sends one request, and waits for its end. Returns `None` if the connection has ended.
async fn stream(
    h2: &mut SendRequest<Bytes>,
    (request, body, is_complete): &(Request<()>, Bytes, bool),
    kind: Kind,
) -> Option<()> {
    *h2 = h2.clone().ready().await.ok()?;
    let (response, mut sending) = h2.send_request(request.clone(), false).ok()?;
    sending.send_data(body.clone(), *is_complete).ok()?;
    let response = response.await;
    if let (Kind::Unread, Ok(response)) = (kind, response)
        && !response.headers().contains_key("grpc-status")
    {
        std::future::pending::<()>().await;
    }
    Some(())
}

/// One attacking connection, opened again when it ends.
async fn connection(attack: &Attack, target: Target, count: Arc<AtomicU64>) {
    let kind = attack.kind;
    let address = match kind {
        Kind::SideHeaders | Kind::SideUnread => target.http,
        _ => target.grpc,
    };
    loop {
        let Ok(mut tcp) = TcpStream::connect(address).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        match kind {
            Kind::Idle => {
                let _ = tcp.read(&mut [0; 64]).await;
                count.fetch_add(1, Relaxed);
            }
            Kind::SideHeaders => {
                let _ = tcp.write_all(b"GET /metrics HTTP/1.1\r\n").await;
                let line = format!("x-long: {}\r\n", "x".repeat(4_000));
                while tcp.write_all(line.as_bytes()).await.is_ok() {
                    count.fetch_add(1, Relaxed);
                }
            }
            Kind::SideUnread => {
                let scrape = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
                while tcp.write_all(scrape).await.is_ok() {
                    count.fetch_add(1, Relaxed);
                }
            }
            _ => {
                let Ok((h2, connection)) = h2::client::handshake(tcp).await else {
                    continue;
                };
                let ended = tokio::spawn(connection);
                let request = Arc::new(request(kind, &target));
                let mut streams = tokio::task::JoinSet::new();
                for _ in 0..attack.streams {
                    let (mut h2, request) = (h2.clone(), Arc::clone(&request));
                    let count = Arc::clone(&count);
                    streams.spawn(async move {
                        while stream(&mut h2, &request, kind).await.is_some() {
                            count.fetch_add(1, Relaxed);
                        }
                    });
                }
                drop(h2);
                let _ = ended.await;
            }
        }
    }
}

/// The attacking process: attacks until it is killed, and prints its count.
pub(super) async fn attack_forever(index: usize, target: Target) {
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..ATTACKS[index].connections {
        tokio::spawn(connection(
            &ATTACKS[index],
            target.clone(),
            Arc::clone(&count),
        ));
    }
    loop {
        println!("{}", count.load(Relaxed));
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
