//! An HTTP/1.1 client for servers on this machine. Each request uses a new connection.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// A response.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code, such as 200.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it is chunked.
    pub body: String,
}

impl HttpAnswer {
    /// Reads a whole answer, after any interim ones. `None` if it is not one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let interim = b"HTTP/1.1 100";
        let bytes = match bytes.strip_prefix(interim.as_slice()) {
            Some(rest) => {
                let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
                &rest[end + 4..]
            }
            None => bytes,
        };
        read(bytes)
    }

    /// The first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    /// Whether it is a refusal by an API: this status, and this message in the JSON envelope.
    pub fn is_refusal(&self, status: u16, message: &str) -> bool {
        let body = format!(r#"{{"error":true,"message":"{message}","data":null}}"#);
        self.status == status
            && self.body == body
            && self.header("content-type") == Some("application/json")
    }
}

/// Sends a request and reads until the server closes the connection.
///
/// # Errors
///
/// The connection failed, or the response is invalid.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<HttpAnswer> {
    let stream = TcpStream::connect(address).await?;
    ask_over(stream, &address.to_string(), method, path, headers, body).await
}

/// Like [`ask`], of a server on a Unix socket.
///
/// # Errors
///
/// The connection failed, or the response is invalid.
pub async fn ask_unix(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<HttpAnswer> {
    let stream = UnixStream::connect(socket).await?;
    ask_over(stream, "localhost", method, path, headers, body).await
}

async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<HttpAnswer> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    read(&bytes).ok_or_else(|| io::Error::other("no HTTP answer"))
}

fn read(bytes: &[u8]) -> Option<HttpAnswer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(_, value)| value == "chunked");
    let body = if chunked {
        joined(body)?
    } else {
        body.to_owned()
    };
    Some(HttpAnswer {
        status,
        headers,
        body,
    })
}

/// Joins the chunks of a body. Chunk sizes count bytes.
fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_whole_or_in_chunks() {
        let plain = read(b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\nhello").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (200, "hello"));
        assert_eq!(plain.header("content-type"), Some("a/b"));
        let chunked = b"HTTP/1.1 401 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        let chunked = read(chunked).unwrap();
        assert_eq!((chunked.status, chunked.body.as_str()), (401, "hello!"));
        assert!(read(b"nonsense").is_none());
    }
}
