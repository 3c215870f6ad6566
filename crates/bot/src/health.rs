//! Whether users are served, the side port that tells (`/livez`, `/readyz`, `/metrics`), and how a
//! running bot is asked.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telegram::POLL;
use crate::telegram::failure::cause;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// After so long without an answer of Telegram, a poll hangs.
const STALE: Duration = Duration::from_secs(2 * POLL.as_secs() + 10);

/// How much of a reason is repeated, in characters.
const MAX_REASON: usize = 500;

/// What is known of the way to Telegram.
pub struct Health {
    state: Mutex<(Result<(), String>, Instant)>,
    /// Updates are pushed: that none come says nothing.
    is_pushed: bool,
}

impl Health {
    /// Nothing is known yet. `is_pushed`: updates come to a webhook.
    pub fn new(is_pushed: bool) -> Self {
        let unknown = Err("Telegram was not reached yet".to_owned());
        Self {
            state: Mutex::new((unknown, Instant::now())),
            is_pushed,
        }
    }

    /// Whether updates come to a webhook.
    pub const fn is_pushed(&self) -> bool {
        self.is_pushed
    }

    /// Notes how the last call for updates ended.
    pub fn set(&self, outcome: Result<(), String>) {
        *self.state.lock() = (outcome, Instant::now());
    }

    /// Whether users are served now.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        self.ready_at(Instant::now())
    }

    fn ready_at(&self, now: Instant) -> Result<(), String> {
        let state = self.state.lock();
        match &state.0 {
            Ok(()) if !self.is_pushed && now > state.1 + STALE => {
                Err("Telegram has not answered for long".to_owned())
            }
            known => known.clone(),
        }
    }
}

/// What the side port asks.
pub struct Probes {
    /// The metrics as OpenMetrics text.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Whether users are served.
    pub health: Arc<Health>,
}

/// Serves the side port until `stop`.
///
/// # Errors
///
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(probes));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    ([(CONTENT_TYPE, OPENMETRICS)], (probes.metrics)()).into_response()
}

async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    let (status, text) = match probes.health.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    (status, [(CACHE_CONTROL, "no-store")], text).into_response()
}

/// Asks the bot whose side port this is whether it serves users, for at most `timeout`.
///
/// # Errors
///
/// Why it does not, or why it cannot be asked.
pub async fn ask(side_port: SocketAddr, timeout: Duration) -> Result<(), String> {
    let mut at = side_port;
    // Listened to is every address of this host, and this is one of them.
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    // It is on this host, whatever leads to others.
    let client = reqwest::Client::builder().no_proxy().timeout(timeout);
    let client = client.build().map_err(|error| cause(&error))?;
    let asked = client.get(format!("http://{at}/readyz")).send().await;
    let mut answer =
        asked.map_err(|error| format!("the bot does not answer: {}", cause(&error)))?;
    // The first piece holds the reason; a stranger that listens there may send without end.
    let said = answer.chunk().await.ok().flatten().unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said: String = said.trim_end().chars().take(MAX_REASON).collect();
    match answer.status() {
        StatusCode::OK => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => {
            Err(format!("users are not served: {}", said.escape_debug()))
        }
        other => Err(format!("that is no bot: it answers {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_has_had_an_answer_of_late() {
        for is_pushed in [false, true] {
            let health = Health::new(is_pushed);
            assert!(health.ready().is_err());
            health.set(Ok(()));
            assert_eq!(health.ready(), Ok(()));
            let later = Instant::now() + STALE + Duration::from_secs(1);
            assert_eq!(health.ready_at(later).is_ok(), is_pushed);
            health.set(Err("away".to_owned()));
            assert_eq!(health.ready(), Err("away".to_owned()));
        }
    }
}
