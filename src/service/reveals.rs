//! How often a caller may see secrets again. A stolen token with the role `revealer` could otherwise read every
//! recoverable key of the deployment at once.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use keyward_core::key::BootTime;

const MINUTE: Duration = Duration::from_secs(60);
/// Remembered callers. A forgotten one has its whole allowance.
const MAX_CALLERS: usize = 10_000;

/// An allowance for each caller's name: a minute's reveals in a row, which fill up evenly.
#[derive(Debug)]
pub struct Reveals {
    /// How long one of them takes to fill up; `None`: there is no limit.
    interval: Option<Duration>,
    /// When the allowance is full again. A full one has no entry.
    full_at: Mutex<HashMap<String, BootTime>>,
}

impl Reveals {
    /// Allows so many in a minute; `None`: any number.
    pub fn new(per_minute: Option<u32>) -> Self {
        Self {
            interval: per_minute.map(|count| MINUTE / count.max(1)),
            full_at: Mutex::default(),
        }
    }

    /// Takes one from the allowance of `caller`. An error is the time until there is one again.
    pub(super) fn take(&self, caller: &str, now: BootTime) -> Result<(), Duration> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let mut callers = self.full_at.lock();
        let full_at = callers
            .get(caller)
            .map_or(now, |full_at| (*full_at).max(now));
        let full_at = full_at.plus(interval);
        let over = full_at.since(now).saturating_sub(MINUTE);
        if !over.is_zero() {
            return Err(over);
        }
        if callers.len() >= MAX_CALLERS && !callers.contains_key(caller) {
            callers.retain(|_, full_at| *full_at > now);
            if callers.len() >= MAX_CALLERS {
                callers.clear();
            }
        }
        callers.insert(caller.to_owned(), full_at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> BootTime {
        BootTime::from_micros(millis * 1_000)
    }

    #[test]
    fn each_caller_has_a_minutes_allowance_which_fills_up() {
        let reveals = Reveals::new(Some(6));
        for _ in 0..6 {
            assert_eq!(reveals.take("bot", at(0)), Ok(()));
        }
        assert_eq!(reveals.take("bot", at(0)), Err(Duration::from_secs(10)));
        assert_eq!(reveals.take("other", at(0)), Ok(()));
        assert_eq!(reveals.take("bot", at(9_000)), Err(Duration::from_secs(1)));
        assert_eq!(reveals.take("bot", at(10_000)), Ok(()));
        assert!(reveals.take("bot", at(10_000)).is_err());
        let minute_later: Vec<_> = (0..7).map(|_| reveals.take("bot", at(70_000))).collect();
        assert_eq!(minute_later.iter().filter(|taken| taken.is_ok()).count(), 6);
    }

    #[test]
    fn many_callers_take_bounded_memory_and_no_limit_takes_none() {
        let reveals = Reveals::new(Some(1));
        for number in 0..MAX_CALLERS + 10 {
            assert!(reveals.take(&number.to_string(), at(0)).is_ok());
        }
        assert!(reveals.full_at.lock().len() <= MAX_CALLERS);
        let unlimited = Reveals::new(None);
        assert!((0..1_000).all(|_| unlimited.take("bot", at(0)).is_ok()));
        assert!(unlimited.full_at.lock().is_empty());
    }
}
