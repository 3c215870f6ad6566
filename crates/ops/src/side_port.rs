//! Asks the side port of a running program.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The time limit of a request.
const PATIENCE: Duration = Duration::from_secs(3);
/// The limit of an answer's size, in bytes.
const MAX_ANSWER: usize = 8 << 20;

/// Sends `GET path` to the side port at `authority`, such as `127.0.0.1:9464`. Returns the status code and
/// the text of the answer.
///
/// # Errors
///
/// Nothing answers there, or not in time, or not with HTTP.
pub async fn get(authority: &str, path: &str) -> io::Result<(StatusCode, String)> {
    match tokio::time::timeout(PATIENCE, ask(authority, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {PATIENCE:?}"),
        )),
    }
}

async fn ask(authority: &str, path: &str) -> io::Result<(StatusCode, String)> {
    let stream = TokioIo::new(TcpStream::connect(authority).await?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    let request = Request::get(path)
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let asking = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(connection, asking);
    tokio::select! {
        biased;
        answer = &mut asking => answer,
        // A server may close the connection as soon as it has sent the answer.
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}
