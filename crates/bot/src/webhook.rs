//! Updates that Telegram pushes to a webhook. A request is answered after its update was handled,
//! so Telegram repeats an update that a crash interrupts. A repeated update waits for the first. The
//! exception is that of `updates`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::{Method, Request, Response, StatusCode};
use keyward_client::Secret;
use keyward_ops::http::serve_connections;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::events::Update;
use crate::health::Health;
use crate::intake::Intake;
use crate::outage::Outage;
use crate::telegram::failure::Failure;
use crate::telegram::{self, MAX_CONNECTIONS, Telegram};
use crate::updates::{MAX_HOLD, release_slow};

const HEADER: &str = "x-telegram-bot-api-secret-token";
/// In bytes; Telegram's updates are far smaller.
const MAX_BODY: usize = 1 << 20;
/// Timeout of the body, after the headers.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// More than Telegram opens.
const MAX_LISTENED: usize = 256;
/// Telegram repeats what is refused beyond this.
const MAX_IN_FLIGHT: usize = 200;
/// How often to ask Telegram whether it delivers updates.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

struct Webhook {
    path: String,
    intake: Arc<Intake>,
    secret: Secret,
}

/// Serves the webhook at `path` until `stop`, and ends after the last answer.
pub async fn serve(
    listener: TcpListener,
    path: String,
    secret: Secret,
    intake: Arc<Intake>,
    stop: CancellationToken,
) {
    let webhook = Arc::new(Webhook {
        path,
        intake,
        secret,
    });
    let answer = move |request: Request<_>| {
        let webhook = Arc::clone(&webhook);
        async move {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = webhook.accept(request.map(Body::new)).await;
            response
        }
    };
    serve_connections(&listener, MAX_LISTENED, answer, stop.cancelled_owned()).await;
}

impl Webhook {
    /// Checks the secret first: of a request without it, nothing else is read.
    async fn accept(&self, request: Request<Body>) -> StatusCode {
        if request.uri().path() != self.path {
            return StatusCode::NOT_FOUND;
        }
        let sent = request.headers().get(HEADER);
        let sent = sent.map_or(&[][..], |value| value.as_bytes());
        if !bool::from(sent.ct_eq(self.secret.expose().as_bytes())) {
            return StatusCode::UNAUTHORIZED;
        }
        if request.method() != Method::POST {
            return StatusCode::METHOD_NOT_ALLOWED;
        }
        let in_flight = self.intake.in_flight();
        if in_flight.count() >= MAX_IN_FLIGHT {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        let body = timeout(BODY_TIMEOUT, to_bytes(request.into_body(), MAX_BODY));
        let body = match body.await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE,
            Err(_) => return StatusCode::REQUEST_TIMEOUT,
        };
        let Ok(update) = serde_json::from_slice::<Update>(&body) else {
            // With another status, Telegram would repeat it forever.
            tracing::warn!("an update that cannot be read was dropped");
            return StatusCode::OK;
        };
        let id = self.intake.accept(update);
        while timeout(MAX_HOLD, in_flight.wait_done(id)).await.is_err() {
            // Telegram must not run out of connections.
            if in_flight.count() > usize::from(MAX_CONNECTIONS / 2) {
                release_slow(in_flight);
            }
        }
        in_flight.forget(id);
        StatusCode::OK
    }
}

/// Keeps the webhook registered until `stop`, and sets `health`: another program may delete the
/// webhook, and Telegram may fail to reach it.
pub async fn watch(
    telegram: &Telegram,
    health: &Health,
    url: &str,
    secret: &Secret,
    stop: &CancellationToken,
) {
    let (mut outage, mut known) = (Outage::default(), None);
    while let Some(answer) = stop
        .run_until_cancelled(check(telegram, url, secret, &mut known))
        .await
    {
        match answer {
            Ok(delivery) => {
                outage = Outage::default();
                if let Err(reason) = &delivery
                    && health.ready() != delivery
                {
                    tracing::warn!(reason, "updates are not delivered");
                }
                health.set(delivery);
                let pause = tokio::time::sleep(CHECK_INTERVAL);
                stop.run_until_cancelled(pause).await;
            }
            Err(failure) => outage.goes_on(&failure, health, stop).await,
        }
    }
}

/// Whether Telegram delivers updates, as one check has found.
struct Delivery {
    last_error: Option<i64>,
    pending: u64,
    is_failing: bool,
}

impl Delivery {
    /// After the previous check. Telegram repeats a failed delivery after pauses that grow, so the lack of a
    /// new error says nothing: updates are delivered again once fewer wait.
    fn after(previous: Option<&Self>, webhook: &telegram::Webhook) -> Self {
        let is_failing = previous.is_some_and(|previous| {
            let still_wait = webhook.pending > 0 && webhook.pending >= previous.pending;
            webhook.last_error > previous.last_error || (previous.is_failing && still_wait)
        });
        Self {
            last_error: webhook.last_error,
            pending: webhook.pending,
            is_failing,
        }
    }
}

/// Registers the webhook if Telegram has another one, or if this process has not registered it yet:
/// the secret may be new. Returns whether Telegram delivers updates. `known` is what the previous check
/// has found.
async fn check(
    telegram: &Telegram,
    url: &str,
    secret: &Secret,
    known: &mut Option<Delivery>,
) -> Result<Result<(), String>, Failure> {
    let webhook = telegram.webhook().await?;
    if known.is_none() || !webhook.is_at(url) {
        telegram.set_webhook(url, secret).await?;
    }
    let delivery = known.insert(Delivery::after(known.as_ref(), &webhook));
    Ok(match delivery.is_failing {
        true => Err(format!(
            "Telegram cannot deliver updates: {}",
            webhook.why()
        )),
        false => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn delivery_fails_until_fewer_updates_wait() {
        let mut known = None;
        for (last_error, pending, is_failing) in [
            // An error from before the start.
            (Some(5), 3, false),
            (Some(5), 4, false),
            (Some(9), 4, true),
            // Telegram pauses, and more users write.
            (Some(9), 4, true),
            (Some(9), 6, true),
            (Some(9), 5, false),
            (Some(9), 7, false),
            (Some(12), 1, true),
            (Some(12), 0, false),
        ] {
            let webhook = json!({
                "url": "", "last_error_date": last_error, "pending_update_count": pending,
            });
            let webhook = serde_json::from_value(webhook).unwrap();
            let delivery = Delivery::after(known.as_ref(), &webhook);
            assert_eq!(delivery.is_failing, is_failing, "{last_error:?} {pending}");
            known = Some(delivery);
        }
    }
}
