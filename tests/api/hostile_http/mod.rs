//! Hostile HTTP at the JSON port: what no client should send is refused or read as the RFC says, and the
//! service answers honest requests after it.

mod held;
mod slow;
mod targets;
mod wire;

use std::net::SocketAddr;

use keyward_testkit::{HttpAnswer, Local, PATIENCE};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;

/// The id of the request that comes after what a test sends.
const LAST: &str = "the-last-one";
/// The header of a body in JSON, and a body.
const JSON: &str = "content-type: application/json\r\n";
const BODY: &str = r#"{"apiKey":"x"}"#;

/// A connection that sends what a test wants.
struct Wire(BufReader<TcpStream>);

impl Wire {
    async fn open(port: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(port).await.unwrap()))
    }

    /// Sends as much as the service takes: it may close the connection before.
    async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next response; `None` if the connection is closed. A response to HEAD has no body.
    async fn response(&mut self, to_head: bool) -> Option<HttpAnswer> {
        let read = tokio::time::timeout(PATIENCE, self.read(to_head));
        read.await.expect("the service answers or closes")
    }

    async fn read(&mut self, to_head: bool) -> Option<HttpAnswer> {
        let (mut status, mut headers) = (0, Vec::new());
        loop {
            let mut line = String::new();
            // A reset is an end, too.
            let read = self.0.read_line(&mut line).await.unwrap_or(0);
            match (line.trim_end(), read) {
                (_, 0) => return None,
                ("", _) => break,
                (line, _) if status == 0 => status = line.split(' ').nth(1)?.parse().unwrap(),
                (line, _) => {
                    let (name, value) = line.split_once(": ").unwrap();
                    headers.push((name.to_lowercase(), value.to_owned()));
                }
            }
        }
        let mut answer = HttpAnswer {
            status,
            headers,
            body: String::new(),
        };
        let length = answer.header("content-length").unwrap_or("0").parse();
        let mut body = vec![0; if to_head { 0 } else { length.unwrap() }];
        self.0.read_exact(&mut body).await.ok()?;
        answer.body = String::from_utf8(body).unwrap();
        Some(answer)
    }
}

/// What the service answers to `bytes`, and whether it keeps the connection for another request, which
/// arrives together with them.
async fn answers(port: SocketAddr, bytes: impl AsRef<[u8]>) -> (Vec<HttpAnswer>, bool) {
    let mut wire = Wire::open(port).await;
    let last = format!("GET /last HTTP/1.1\r\nhost: x\r\nx-request-id: {LAST}\r\n\r\n");
    wire.send([bytes.as_ref(), last.as_bytes()].concat()).await;
    let mut answers = Vec::new();
    while let Some(answer) = wire.response(false).await {
        if answer.header("x-request-id") == Some(LAST) {
            return (answers, true);
        }
        answers.push(answer);
    }
    (answers, false)
}

/// An honest request gets its answer.
async fn is_honest(local: &Local) {
    let body = verify_by_json(local, "x").await;
    assert!(body.contains("VERDICT_MALFORMED"), "{body}");
}

/// A Verify with these further lines in its head, before the body.
fn verify(local: &Local, lines: &str, body: &str) -> String {
    let token = &local.token;
    format!(
        "POST /v1/keys:verify HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{lines}\r\n{body}"
    )
}
