//! Whether the bot serves users, and how another process asks a running bot.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telegram::POLL;
use keyward_ops::outgoing::connect_address;
use keyward_ops::side_port;

/// After this time without an answer from Telegram, a poll hangs.
const STALE: Duration = Duration::from_secs(2 * POLL.as_secs() + 10);

/// The longest part of a reason that is shown, in characters.
const MAX_REASON: usize = 500;

/// Whether the bot reaches Telegram.
pub struct Health {
    state: Mutex<(Result<(), String>, Instant)>,
    /// Telegram pushes updates, so their absence proves nothing.
    is_pushed: bool,
}

impl Health {
    /// Before the first call to Telegram. `is_pushed`: Telegram pushes updates to a webhook.
    pub fn new(is_pushed: bool) -> Self {
        let unknown = Err("Telegram was not reached yet".to_owned());
        Self {
            state: Mutex::new((unknown, Instant::now())),
            is_pushed,
        }
    }

    /// Records the outcome of the last call for updates.
    pub fn set(&self, outcome: Result<(), String>) {
        *self.state.lock() = (outcome, Instant::now());
    }

    /// Whether the bot serves users now.
    ///
    /// # Errors
    ///
    /// The reason why it does not.
    pub fn ready(&self) -> Result<(), String> {
        self.ready_at(Instant::now())
    }

    fn ready_at(&self, now: Instant) -> Result<(), String> {
        let state = self.state.lock();
        match &state.0 {
            Ok(()) if !self.is_pushed && now > state.1 + STALE => {
                Err("Telegram has not answered for too long".to_owned())
            }
            known => known.clone(),
        }
    }
}

/// Whether any of these bots serves users: each failing bot is named, with its reason.
///
/// # Errors
///
/// The reasons why none does.
pub fn of_all<'a>(
    bots: impl ExactSizeIterator<Item = (&'a str, &'a Health)>,
) -> Result<String, String> {
    let count = bots.len();
    let failing = bots.filter_map(|(name, health)| Some((name, health.ready().err()?)));
    let failing: Vec<_> = failing
        .map(|(name, reason)| match count {
            1 => reason,
            _ => format!("bot {name}: {reason}"),
        })
        .collect();
    match failing.len() {
        0 => Ok("ok".to_owned()),
        failed if failed == count => Err(failing.join("; ")),
        _ => Ok(format!("ok, except {}", failing.join("; "))),
    }
}

/// Asks the bot with this side port whether it serves users. Returns its answer.
///
/// # Errors
///
/// The reason why it does not, or why it does not answer.
pub async fn ask(side_port: SocketAddr) -> Result<String, String> {
    let authority = connect_address(side_port).to_string();
    let answered = side_port::get(&authority, "/readyz").await;
    let (status, reason) = answered.map_err(|error| format!("the bot does not answer: {error}"))?;
    let reason: String = reason.trim_end().chars().take(MAX_REASON).collect();
    let reason = reason.escape_debug();
    match status {
        StatusCode::OK => Ok(reason.to_string()),
        StatusCode::SERVICE_UNAVAILABLE => Err(format!("users are not served: {reason}")),
        other => Err(format!("another program answers there: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bot_is_ready_only_after_a_recent_answer() {
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

    #[test]
    fn one_serving_bot_is_enough_and_failing_ones_are_named() {
        let (one, two) = (Health::new(false), Health::new(false));
        let all = || of_all([("1", &one), ("2", &two)].into_iter());
        let unreached = "Telegram was not reached yet";
        assert_eq!(
            all(),
            Err(format!("bot 1: {unreached}; bot 2: {unreached}"))
        );
        one.set(Ok(()));
        assert_eq!(all(), Ok(format!("ok, except bot 2: {unreached}")));
        two.set(Ok(()));
        assert_eq!(all(), Ok("ok".to_owned()));
        two.set(Err("away".to_owned()));
        assert_eq!(of_all([("2", &two)].into_iter()), Err("away".to_owned()));
    }
}
