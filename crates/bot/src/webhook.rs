//! Updates that Telegram pushes. Each request is answered when its update was handled, so one that
//! a crash interrupts comes again; one that comes again meanwhile waits for the first.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use keyward_client::Secret;
use subtle::ConstantTimeEq as _;
use teloxide_core::types::Update;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;

const HEADER: &str = "x-telegram-bot-api-secret-token";
/// Telegram's updates are far smaller.
const MAX_BODY: usize = 1 << 20;
/// Telegram tries again later what is refused beyond this.
const MAX_IN_FLIGHT: usize = 200;

struct Webhook {
    desk: Arc<Desk>,
    secret: Secret,
}

/// Serves the webhook at `path` until `stop`, then ends when the requests under way are answered.
///
/// # Errors
///
/// Those of the listener.
pub async fn serve(
    listener: TcpListener,
    path: &str,
    secret: Secret,
    desk: Arc<Desk>,
    stop: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route(path, post(take))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(Webhook { desk, secret }));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn take(State(webhook): State<Arc<Webhook>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let sent = headers
        .get(HEADER)
        .map_or(&[][..], |value| value.as_bytes());
    let secret = webhook.secret.expose().as_bytes();
    if !bool::from(sent.ct_eq(secret)) {
        return StatusCode::UNAUTHORIZED;
    }
    let in_flight = webhook.desk.in_flight();
    if in_flight.count() >= MAX_IN_FLIGHT {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let Ok(update) = serde_json::from_slice::<Update>(&body) else {
        // It would come again for ever, and never be read.
        tracing::warn!("an update without an id was dropped");
        return StatusCode::OK;
    };
    let id = webhook.desk.accept(update);
    in_flight.done(id).await;
    in_flight.forget(id);
    StatusCode::OK
}
