//! How often a user may do something: a burst of the whole allowance, which fills up evenly over
//! the period.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::flow::Allowance;
use crate::tracked::BotUser;

/// Remembered users. A forgotten user has a full allowance.
const MAX_USERS: usize = 50_000;

/// A limit for each user of each bot, in memory: after a restart every user has a full allowance.
pub struct Limit {
    interval: Duration,
    period: Duration,
    /// When the allowance of each user is full again. A full allowance has no entry.
    full_at: Mutex<HashMap<BotUser, Instant>>,
}

impl Limit {
    /// Allows `times` (at least 1) in each `period`.
    pub fn new(times: u32, period: Duration) -> Self {
        Self {
            interval: period / times.max(1),
            period,
            full_at: Mutex::default(),
        }
    }

    /// Takes one from the allowance of `user`.
    ///
    /// # Errors
    ///
    /// The time until there is one again; nothing was taken.
    pub fn take(&self, user: BotUser, now: Instant) -> Result<(), Duration> {
        let mut users = self.full_at.lock();
        let full_at = users.get(&user).map_or(now, |full_at| (*full_at).max(now));
        let full_at = full_at + self.interval;
        // The rounded interval must not cost the last of the allowance.
        let latest = now + self.period + Duration::from_micros(1);
        if full_at > latest {
            return Err(full_at - latest);
        }
        if users.len() >= MAX_USERS && !users.contains_key(&user) {
            users.retain(|_, full_at| *full_at > now);
            if users.len() >= MAX_USERS {
                // The user with the largest allowance loses the least.
                let largest = users.iter().min_by_key(|(_, full_at)| **full_at);
                let largest = largest.map(|(user, _)| *user);
                largest.map(|user| users.remove(&user));
            }
        }
        users.insert(user, full_at);
        Ok(())
    }
}

/// The limits of the bot.
pub struct Limits {
    /// Keys shown.
    pub reveals: Limit,
    /// Keys revoked.
    pub revokes: Limit,
    /// Updates answered. More are a flood, whose answers nobody reads.
    pub updates: Limit,
}

impl Limits {
    /// The limit of an allowance.
    pub const fn of(&self, allowance: Allowance) -> &Limit {
        match allowance {
            Allowance::Reveals => &self.reveals,
            Allowance::Revokes => &self.revokes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_burst_is_allowed_and_then_one_after_each_interval() {
        let limit = Limit::new(3, HOUR);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take((0, 1), now), Ok(()));
        }
        let wait = limit.take((0, 1), now).unwrap_err();
        assert!(
            wait <= HOUR / 3 && wait > HOUR / 3 - Duration::from_secs(1),
            "{wait:?}"
        );
        assert_eq!(
            limit.take((0, 2), now),
            Ok(()),
            "other users are not limited"
        );
        assert_eq!(limit.take((0, 1), now + wait), Ok(()));
        assert!(limit.take((0, 1), now + wait).is_err());
        for _ in 0..3 {
            assert_eq!(limit.take((0, 1), now + HOUR * 3), Ok(()));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let limit = Limit::new(2, HOUR);
        let now = Instant::now();
        // User 0 has the smallest allowance, so it is not forgotten.
        assert_eq!(
            (limit.take((0, 0), now), limit.take((0, 0), now)),
            (Ok(()), Ok(()))
        );
        for user in 1..MAX_USERS as u64 + 100 {
            assert_eq!(limit.take((0, user), now), Ok(()));
        }
        assert!(limit.full_at.lock().len() <= MAX_USERS);
        assert!(limit.take((0, 0), now).is_err());
        assert_eq!(limit.take((1, 0), now + HOUR * 2), Ok(()));
        assert_eq!(
            limit.full_at.lock().len(),
            1,
            "full allowances are forgotten"
        );
    }
}
