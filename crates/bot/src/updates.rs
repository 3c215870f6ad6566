//! Long polling. An update is confirmed to Telegram, by asking for later ones only, when it and
//! all before it were handled: what a crash interrupts comes again. One exception: `HOLDING_UP`.

use std::time::Duration;

use teloxide_core::types::Update;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::health::Health;
use crate::telegram::POLL;
use crate::telegram::failure::Failure;

/// As many as Telegram gives at once. Since what is under way is given again, there are never more
/// under way.
const LIMIT: u8 = 100;
/// Telegram gives so many at once and no more, so one that is under way holds up what comes after the
/// others. It may for so long, and is then confirmed before its end: nobody else shall wait for a
/// Revoke that waits for a lost instance. A crash right then loses it, and its user asks again.
const HOLDING_UP: Duration = Duration::from_secs(10);
/// While something is under way, Telegram answers at once, with it; so it is asked only so often.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Somebody else polls: one of both must end first.
const CONFLICT_PAUSE: Duration = Duration::from_secs(5);
/// How long the last confirmation may take.
const LAST: Duration = Duration::from_secs(3);

/// Fetches updates for `desk` until `stop`.
pub async fn poll(desk: &Desk, health: &Health, stop: &CancellationToken) {
    let telegram = &desk.handler().board.telegram;
    let mut failures = 0;
    while !stop.is_cancelled() {
        // After a failure the first answer is to come soon, so that it is known to be over.
        let wait = match (desk.in_flight().count(), failures) {
            (0, 0) => POLL,
            _ => Duration::ZERO,
        };
        let offset = desk.in_flight().offset();
        let asking = telegram.updates(offset, LIMIT, wait);
        // What is dropped with the answer was not confirmed, so it comes again.
        let Some(answer) = stop.run_until_cancelled(asking).await else {
            break;
        };
        match answer {
            Ok(updates) => {
                if failures > 0 {
                    tracing::info!("Telegram gives updates again");
                }
                failures = 0;
                health.set(Ok(()));
                take(desk, offset, updates);
                let idle = tokio::time::timeout(PAUSE, desk.in_flight().idle());
                // Whichever comes first, Telegram is asked again.
                let _ = stop.run_until_cancelled(idle).await;
            }
            Err(failure) => {
                failures += 1;
                health.set(Err(failure.to_string()));
                // Said once an outage, and again after every ten attempts.
                if failures % 10 == 1 {
                    tracing::warn!(%failure, failures, "no updates of Telegram; trying again");
                }
                rest(pause(&failure, failures), stop).await;
            }
        }
    }
}

/// Takes on the updates that came for `offset`.
fn take(desk: &Desk, offset: Option<u32>, updates: Vec<Update>) {
    let all = desk.in_flight();
    let (count, before) = (updates.len(), all.next());
    let highest = updates.iter().map(|update| update.id.0).max();
    // After a week without any, Telegram numbers updates anew, and takes the old offset for none.
    let is_anew = matches!((highest, offset), (Some(highest), Some(offset)) if highest < offset);
    if is_anew {
        all.begin_anew();
    }
    for update in updates {
        desk.accept(update);
    }
    if is_anew {
        return;
    }
    offset.inspect(|offset| all.forget_below(*offset));
    // Telegram gives no more at once, so what came later than these waits for the first of them.
    if count >= usize::from(LIMIT) && all.next() == before {
        let then = Instant::now().checked_sub(HOLDING_UP);
        let given_up = then.map_or(0, |then| all.give_up(then));
        if given_up > 0 {
            tracing::warn!(
                given_up,
                "updates that take long are confirmed before their end"
            );
        }
    }
}

/// Confirms what was handled: nothing else would tell Telegram after the last poll.
pub async fn confirm(desk: &Desk) {
    let Some(offset) = desk.in_flight().offset() else {
        return;
    };
    let telegram = &desk.handler().board.telegram;
    let confirming = telegram.updates(Some(offset), 1, Duration::ZERO);
    match tokio::time::timeout(LAST, confirming).await {
        Ok(Ok(_)) => {}
        // They come again, and are answered with the state as it is then.
        Ok(Err(failure)) => tracing::warn!(%failure, "the last updates could not be confirmed"),
        Err(_) => tracing::warn!("the last updates could not be confirmed in time"),
    }
}

/// Waits for so long, or until `stop`.
pub async fn rest(pause: Duration, stop: &CancellationToken) {
    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
}

/// How long to wait after so many failures in a row.
pub fn pause(failure: &Failure, failures: u32) -> Duration {
    match failure {
        Failure::TooMany(wait) => (*wait).clamp(PAUSE, LONGEST_PAUSE * 2),
        Failure::Conflict => CONFLICT_PAUSE,
        _ => (PAUSE * 2_u32.saturating_pow(failures.min(8))).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let lost = Failure::Lost("x".to_owned());
        assert_eq!(pause(&lost, 1), PAUSE * 2);
        assert_eq!(pause(&lost, 2), PAUSE * 4);
        assert_eq!(pause(&lost, u32::MAX), LONGEST_PAUSE);
        let wait = Duration::from_secs(7);
        assert_eq!(pause(&Failure::TooMany(wait), 1), wait);
        assert_eq!(pause(&Failure::Conflict, 9), CONFLICT_PAUSE);
    }
}
