//! The HTTP server: connections, the token, the encodings of arguments, and faults.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::calls::{Call, Refusal};
use super::fault::{Fault, When};
use super::methods::{METHODS, perform};
use super::{Shared, updates, webhook};
use crate::deadline::now;

/// Closes the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("dropped on demand")]
struct Dropped;

/// Accepts connections until the fake is dropped. Open connections end with the runtime.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<()>,
) {
    let listener = TcpListener::from_std(listener).expect("the runtime takes a listener");
    tokio::spawn(webhook::deliver(Arc::clone(&shared)));
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| handle(Arc::clone(&shared), request));
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // The connection ends with an error if either side drops it.
        tokio::spawn(async { drop(served.await) });
    }
}

/// Answers one request.
async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    let method = match route(request.uri().path(), shared.token) {
        Ok(method) => method,
        Err(refusal) => return Ok(refuse(&refusal)),
    };
    let arguments = match arguments(request).await {
        Ok(arguments) => arguments,
        Err(refusal) => return Ok(refuse(&refusal)),
    };
    let (number, fault) = shared.change(|world| {
        world.calls.push(Call {
            at: now(),
            method,
            arguments: arguments.clone(),
            status: None,
        });
        (world.calls.len() - 1, world.faults.take(method))
    });
    let answer = answer(&shared, method, &arguments, fault).await?;
    let status = answer.status().as_u16();
    shared.change(|world| world.calls[number].status = Some(status));
    Ok(answer)
}

/// Executes the call, unless it has a fault.
async fn answer(
    shared: &Shared,
    method: &str,
    arguments: &Map<String, Value>,
    fault: Option<Fault>,
) -> Result<Response<Full<Bytes>>, Dropped> {
    match &fault {
        Some(Fault::TooManyRequests(seconds)) => return Ok(refuse(&Refusal::too_many(*seconds))),
        Some(Fault::Answer { status, body }) => return Ok(response(*status, body.clone())),
        Some(Fault::Drop(When::Before)) => return Err(Dropped),
        Some(Fault::Hold(When::Before, gate)) => gate.pass().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
        _ => {}
    }
    let outcome = match method {
        "getUpdates" => updates::poll(shared, arguments).await,
        _ => shared.change(|world| perform(world, method, arguments)),
    };
    match &fault {
        Some(Fault::Drop(When::After)) => return Err(Dropped),
        Some(Fault::Hold(When::After, gate)) => gate.pass().await,
        _ => {}
    }
    Ok(match outcome {
        Ok(result) => response(200, json!({ "ok": true, "result": result }).to_string()),
        Err(refusal) => refuse(&refusal),
    })
}

/// The method in a path: `/bot<token>/<method>`.
fn route(path: &str, known: &str) -> Result<&'static str, Refusal> {
    let unknown = || Refusal::new(404, "Not Found");
    let rest = path.strip_prefix("/bot").ok_or_else(unknown)?;
    let (token, method) = rest.split_once('/').ok_or_else(unknown)?;
    if token != known {
        return Err(Refusal::new(401, "Unauthorized"));
    }
    let known = METHODS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(method));
    known.copied().ok_or_else(unknown)
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    response(refusal.code, refusal.body().to_string())
}

fn response(status: u16, body: String) -> Response<Full<Bytes>> {
    let kind = if body.starts_with('<') {
        "text/html"
    } else {
        "application/json"
    };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body)))
        .expect("a status and a body make an answer")
}

/// The arguments: in the query, or as JSON, form or multipart.
async fn arguments(request: Request<Incoming>) -> Result<Map<String, Value>, Refusal> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let body = request.into_body().collect().await;
    let body = body
        .map_err(|_| Refusal::bad("the body ended early"))?
        .to_bytes();
    let mut arguments = form(query.as_bytes());
    if body.is_empty() {
        return Ok(arguments);
    }
    if kind.starts_with("application/json") {
        let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
            return Err(Refusal::bad("can't parse JSON object"));
        };
        arguments.extend(object);
    } else if let Ok(boundary) = multer::parse_boundary(&kind) {
        arguments.extend(parts(body, boundary).await?);
    } else {
        arguments.extend(form(&body));
    }
    Ok(arguments)
}

fn form(text: &[u8]) -> Map<String, Value> {
    let pairs = form_urlencoded::parse(text);
    pairs
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect()
}

async fn parts(body: Bytes, boundary: String) -> Result<Map<String, Value>, Refusal> {
    let wrong = |_| Refusal::bad("can't parse the parts of the body");
    let stream = futures_util::stream::iter([Ok::<_, Infallible>(body)]);
    let mut parts = multer::Multipart::new(stream, boundary);
    let mut found = Map::new();
    while let Some(part) = parts.next_field().await.map_err(wrong)? {
        let name = part.name().unwrap_or_default().to_owned();
        found.insert(name, Value::String(part.text().await.map_err(wrong)?));
    }
    Ok(found)
}
