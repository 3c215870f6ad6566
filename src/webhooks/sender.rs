//! One attempt to send a message.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::{Endpoint, secret};
use keyward_core::key::{Clock, KeyId, Timestamp};
use keyward_ops::VERSION;
use keyward_ops::outgoing::{self, Proxies};

/// The most bytes of an answer that are read. Its status alone counts.
const MAX_ANSWER: usize = 64 << 10;

/// What an attempt has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The receiver has answered with this status, and asks for this pause.
    Status(StatusCode, Option<Duration>),
    /// There was no answer, for this reason.
    None(String),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status, _) => write!(f, "status {}", status.as_u16()),
            Self::None(reason) => f.write_str(reason),
        }
    }
}

/// Sends messages to one webhook.
pub struct Sender {
    endpoint: Endpoint,
    client: reqwest::Client,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Sender {
    pub(super) fn new(
        endpoint: Endpoint,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let client = outgoing::client(Proxies::None)
            .map_err(|error| format!("the client for webhooks: {error}"))?;
        Ok(Self {
            endpoint,
            client,
            timeout,
            clock,
        })
    }

    /// The webhook.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How long an attempt takes at most.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a message, signed now.
    pub(super) async fn send(&self, id: KeyId, body: String) -> Answer {
        let response = tokio::time::timeout(self.timeout, self.request(id, body)).await;
        let mut response = match response {
            Ok(Ok(response)) => response,
            Ok(Err(reason)) => return Answer::None(reason),
            Err(_) => return Answer::None(format!("no answer within {:?}", self.timeout)),
        };
        let pause = retry_after(response.headers(), self.clock.wall());
        // A connection whose answer was read can be used again. The status is known already.
        let rest = outgoing::body(&mut response, MAX_ANSWER);
        let _ = tokio::time::timeout(Duration::from_millis(500), rest).await;
        Answer::Status(response.status(), pause)
    }

    /// Sends a message, and returns when the head of the answer is there.
    async fn request(&self, id: KeyId, body: String) -> Result<reqwest::Response, String> {
        let file = self.endpoint.secret_file.clone();
        let secrets = tokio::task::spawn_blocking(move || secret::read(&file)).await;
        let secrets = secrets.map_err(|error| error.to_string())?;
        let secrets = secrets.map_err(|error| format!("secret_file {error}"))?;
        let (id, now) = (id.to_string(), self.clock.wall());
        let timestamp = now.as_micros().div_euclid(1_000_000);
        let signature = secrets.sign(&id, timestamp, &body);
        let request = self
            .client
            .post(self.endpoint.url.expose())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, format!("keyward/{VERSION}"))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let response = request.send().await;
        response.map_err(|error| outgoing::cause(&error))
    }
}

/// The pause that a receiver asks for: seconds, or a time.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    let time = Timestamp::from_micros(time.unix_timestamp().checked_mul(1_000_000)?);
    Some(time.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_time() {
        let now = Timestamp::from_micros(784_111_777_000_000);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
