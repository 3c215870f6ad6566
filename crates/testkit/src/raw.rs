//! A client of unary calls that sends and shows their bytes. Unlike tonic's client it has no deadline
//! of its own, so a test sees how the service answers a `grpc-timeout`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::{Code, Status};

/// One connection without a token.
#[derive(Clone, Debug)]
pub struct RawClient(SendRequest<Pieces>);

/// The body of a request: each piece is a frame of HTTP/2, the last one with the end of the request.
#[derive(Clone, Debug)]
pub struct Pieces(pub VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// All that comes back from a call.
#[derive(Debug)]
pub struct RawAnswer {
    /// The status of HTTP.
    pub http: StatusCode,
    /// The headers of the response.
    pub headers: HeaderMap,
    /// The trailers of the response.
    pub trailers: HeaderMap,
    /// The message with its prefix of five bytes; empty if the call was refused.
    pub frame: Bytes,
    /// OK or the refusal.
    pub status: Status,
}

/// The frame of an uncompressed message.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a message of a test is short");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

impl RawClient {
    /// Connects to a Keyward at this address.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await;
        let stream = stream.expect("Keyward takes connections");
        // Otherwise the second piece of a request waits for the acknowledgement of the first.
        stream.set_nodelay(true).expect("TCP has this option");
        let io = TokioIo::new(stream);
        let (sender, connection) = handshake(TokioExecutor::new(), io)
            .await
            .expect("Keyward speaks HTTP/2");
        // It ends with the last sender.
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends `frame` to the method at `path` with these headers.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], frame: Vec<u8>) -> RawAnswer {
        let mut request = Request::post(format!("http://keyward{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Pieces([frame.into()].into()));
        self.send(request.expect("headers of a test are valid"))
            .await
    }

    /// Sends any request.
    pub async fn send(&self, request: Request<Pieces>) -> RawAnswer {
        let response = self.0.clone().send_request(request).await;
        let (parts, body) = response.expect("Keyward answers").into_parts();
        let body = body.collect().await.expect("the answer is complete");
        let trailers = body.trailers().cloned().unwrap_or_default();
        RawAnswer {
            status: Status::from_header_map(&trailers)
                .or_else(|| Status::from_header_map(&parts.headers))
                .unwrap_or_else(|| Status::new(Code::Unknown, "the answer has no status")),
            http: parts.status,
            headers: parts.headers,
            trailers,
            frame: body.to_bytes(),
        }
    }
}

impl RawAnswer {
    /// The message of an answer that is OK.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub fn message(self) -> Result<Bytes, Status> {
        match self.status.code() {
            Code::Ok => Ok(self.frame.slice(5..)),
            _ => Err(self.status),
        }
    }
}
