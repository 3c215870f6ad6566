//! How often one user may do a thing: so many at once, and as many again over the period.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How many users are remembered. Who is forgotten starts with a full allowance.
const MAX_USERS: usize = 50_000;

/// A limit for each user. In memory: a restart gives everybody a full allowance.
pub struct Limit {
    interval: Duration,
    period: Duration,
    max_users: usize,
    /// When each user would be at rest again. Whoever is at rest is not here.
    rest_at: Mutex<HashMap<u64, Instant>>,
}

impl Limit {
    /// Allows `times` (at least 1) in each `period`.
    pub fn new(times: u32, period: Duration) -> Self {
        Self {
            interval: period / times.max(1),
            period,
            max_users: MAX_USERS,
            rest_at: Mutex::default(),
        }
    }

    /// Takes one from the allowance of `user`.
    ///
    /// # Errors
    ///
    /// How long it takes until there is one again; nothing was taken.
    pub fn take(&self, user: u64, now: Instant) -> Result<(), Duration> {
        let mut users = self.rest_at.lock();
        let from = users.get(&user).map_or(now, |rest_at| (*rest_at).max(now));
        let until = from + self.interval;
        // Rounding of the interval must not cost the last of the allowance.
        let allowed = now + self.period + Duration::from_micros(1);
        if until > allowed {
            return Err(until - allowed);
        }
        if users.len() >= self.max_users && !users.contains_key(&user) {
            users.retain(|_, rest_at| *rest_at > now);
            if users.len() >= self.max_users {
                // Who has the most left loses the least.
                let most = users
                    .iter()
                    .min_by_key(|(_, at)| **at)
                    .map(|(user, _)| *user);
                most.map(|user| users.remove(&user));
            }
        }
        users.insert(user, until);
        Ok(())
    }
}

/// The limits of the bot.
pub struct Limits {
    /// Keys shown.
    pub reveals: Limit,
    /// Keys revoked.
    pub revokes: Limit,
    /// Updates answered: beyond it is a flood, which nobody reads the answers to.
    pub updates: Limit,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn so_many_at_once_and_then_one_by_one() {
        let limit = Limit::new(3, HOUR);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(1, now), Ok(()));
        }
        let wait = limit.take(1, now).unwrap_err();
        assert!(
            wait <= HOUR / 3 && wait > HOUR / 3 - Duration::from_secs(1),
            "{wait:?}"
        );
        assert_eq!(limit.take(2, now), Ok(()), "others are not limited");
        assert_eq!(limit.take(1, now + wait), Ok(()));
        assert!(limit.take(1, now + wait).is_err());
        for _ in 0..3 {
            assert_eq!(limit.take(1, now + HOUR * 3), Ok(()));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let limit = Limit {
            max_users: 10,
            ..Limit::new(2, HOUR)
        };
        let now = Instant::now();
        // The first is the one that has used most, so it is not forgotten.
        assert_eq!((limit.take(0, now), limit.take(0, now)), (Ok(()), Ok(())));
        for user in 1..100 {
            assert_eq!(limit.take(user, now), Ok(()));
            assert!(limit.rest_at.lock().len() <= 10);
        }
        assert!(limit.take(0, now).is_err());
        assert_eq!(limit.take(100, now + HOUR * 2), Ok(()));
        assert_eq!(limit.rest_at.lock().len(), 1, "those at rest are forgotten");
    }
}
