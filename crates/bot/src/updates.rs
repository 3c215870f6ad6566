//! Long polling. A later offset confirms an update to Telegram only after the update and all earlier
//! ones were handled, so Telegram repeats an update that a crash interrupts. The exception is
//! `MAX_HOLD`.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::Update;
use crate::health::Health;
use crate::in_flight::InFlight;
use crate::intake::Intake;
use crate::outage::Outage;
use crate::telegram::{POLL, Telegram};

/// Telegram's maximum. Telegram repeats updates in flight, so no more can be in flight.
const LIMIT: u8 = 100;
/// A slow update holds up all updates behind the first `LIMIT`. After this time it is confirmed
/// before its end, so that no user waits for another user's Revoke. A crash then loses the update,
/// and its user must repeat it.
pub(crate) const MAX_HOLD: Duration = Duration::from_secs(10);
/// Above this number of such updates, the others wait at Telegram: while it takes no messages, they
/// would fill the memory, and a crash would lose them all.
const MAX_RELEASED: usize = 1_000;
/// Pause between polls while updates are in flight: Telegram then answers at once, and repeats them.
const PAUSE: Duration = Duration::from_millis(250);
/// Timeout of the last confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Fetches updates for `intake` until `stop`.
pub async fn poll(intake: &Intake, telegram: &Telegram, health: &Health, stop: &CancellationToken) {
    let mut outage = Outage::default();
    while !stop.is_cancelled() {
        // After a failure, a short poll shows early that Telegram answers again.
        let wait = match intake.in_flight().count() == 0 && outage.is_over() {
            true => POLL,
            false => Duration::ZERO,
        };
        let offset = intake.in_flight().offset();
        let call = telegram.updates(offset, LIMIT, wait);
        // A dropped answer confirms nothing, so its updates are repeated.
        let Some(answer) = stop.run_until_cancelled(call).await else {
            break;
        };
        match answer {
            Ok(updates) => {
                if !outage.is_over() {
                    tracing::info!("Telegram sends updates again");
                }
                outage = Outage::default();
                health.set(Ok(()));
                accept(intake, offset, updates);
                let idle = tokio::time::timeout(PAUSE, intake.in_flight().wait_idle());
                // In any case the next poll follows.
                let _ = stop.run_until_cancelled(idle).await;
            }
            Err(failure) => outage.goes_on(&failure, health, stop).await,
        }
    }
}

/// Accepts the answer to a poll with `offset`.
fn accept(intake: &Intake, offset: Option<u32>, updates: Vec<Update>) {
    let in_flight = intake.in_flight();
    let (count, next) = (updates.len(), in_flight.next());
    offset.inspect(|offset| in_flight.forget_below(*offset));
    for update in updates {
        intake.accept(update);
    }
    // A full answer without a new update: later updates wait for the first of these.
    if count >= usize::from(LIMIT) && in_flight.next() == next {
        release_slow(in_flight);
    }
}

/// Lets Telegram get the confirmation of updates that take longer than `MAX_HOLD`.
pub(crate) fn release_slow(in_flight: &InFlight) {
    let start = Instant::now().checked_sub(MAX_HOLD);
    let released = start.map_or(0, |start| in_flight.release(start, MAX_RELEASED));
    if released > 0 {
        tracing::warn!(released, "slow updates are confirmed before their end");
    }
}

/// Confirms the handled updates at a stop, when no other poll follows.
pub async fn confirm(intake: &Intake, telegram: &Telegram) {
    let Some(offset) = intake.in_flight().offset() else {
        return;
    };
    let call = telegram.updates(Some(offset), 1, Duration::ZERO);
    // Unconfirmed updates are repeated, and answered with the state at that time.
    match tokio::time::timeout(CONFIRM_TIMEOUT, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => tracing::warn!(%failure, "cannot confirm the last updates"),
        Err(_) => tracing::warn!("cannot confirm the last updates within {CONFIRM_TIMEOUT:?}"),
    }
}
