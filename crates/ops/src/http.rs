//! The side port: `/metrics`, `/livez`, `/readyz`, `/version`.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::VERSION;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the side port reports about a program.
pub struct Probes {
    /// The name of the program.
    pub name: &'static str,
    /// The metrics as OpenMetrics text. Each scrape calls it, so it can update gauges.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// That the program can serve now, perhaps with a warning, or the reason why it cannot.
    pub ready: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
}

/// Serves the side port on `listener` until `shutdown` ends, then finishes the open requests.
///
/// # Errors
///
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(probes))
        .with_graceful_shutdown(shutdown)
        .await
}

fn router(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .with_state(Arc::new(probes))
}

async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    ([(CONTENT_TYPE, OPENMETRICS)], (probes.metrics)()).into_response()
}

async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    let (status, text) = match (probes.ready)() {
        Ok(text) => (StatusCode::OK, text),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    (status, [(CACHE_CONTROL, "no-store")], text + "\n").into_response()
}

async fn version(State(probes): State<Arc<Probes>>) -> Response {
    let version = serde_json::json!({ "name": probes.name, "version": VERSION });
    axum::Json(version).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn side_port_answers_until_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let probes = Probes {
            name: "example",
            metrics: Box::new(|| "keyward_fresh 1\n# EOF\n".to_owned()),
            ready: Box::new(|| Err("not fresh".to_owned())),
        };
        let server = tokio::spawn(serve(listener, probes, async { drop(stopped.await) }));

        let answer = get(address, "/metrics").await;
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(answer.ends_with("keyward_fresh 1\n# EOF\n"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("not fresh\n"),
            "{answer}"
        );
        let expected = format!("{{\"name\":\"example\",\"version\":\"{VERSION}\"}}");
        assert!(get(address, "/version").await.ends_with(&expected));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));

        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
