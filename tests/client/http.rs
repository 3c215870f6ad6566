//! Plain HTTP, so that a test controls every byte of a header.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Status line and headers, with names in lower case.
    head: String,
    pub(crate) body: String,
}

impl Reply {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Whether this is a refusal in the envelope with this status and message.
    pub(crate) fn is_refusal(&self, status: u16, message: &str) -> bool {
        let body = format!(r#"{{"error":true,"message":"{message}","data":null}}"#);
        self.status == status
            && self.body == body
            && self.header("content-type") == Some("application/json")
    }
}

/// Sends a request with these headers. With a `body`, it is a POST of JSON.
pub(crate) async fn send(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Reply {
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        let kind = "content-type: application/json";
        request.push_str(&format!("{kind}\r\ncontent-length: {length}\r\n"));
    }
    let request = request + "\r\n" + body.unwrap_or_default();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (line, lines) = head.split_once("\r\n").unwrap();
    let names = lines.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        format!("{}: {value}\n", name.to_ascii_lowercase())
    });
    Reply {
        status: line.split(' ').nth(1).unwrap().parse().unwrap(),
        head: names.collect(),
        body: body.to_owned(),
    }
}
