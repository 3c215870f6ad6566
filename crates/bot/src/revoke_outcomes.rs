//! Remembers which revocations users have confirmed, and whether their outcome is clear.
//!
//! This memory is a convenience, not a proof: after a restart, the same button repeats the same
//! Revoke.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::flow::Outcome;

const MAX_USERS: usize = 10_000;
const MAX_KEYS: usize = 8;

/// The last confirmed revocations of each user.
#[derive(Default)]
pub struct RevokeOutcomes {
    users: Mutex<HashMap<u64, Vec<(Uuid, Outcome)>>>,
}

impl RevokeOutcomes {
    /// The revocations of a user, oldest first.
    pub fn of(&self, user: u64) -> Vec<(Uuid, Outcome)> {
        self.users.lock().get(&user).cloned().unwrap_or_default()
    }

    /// Remembers the outcome of a Revoke.
    pub fn set(&self, user: u64, key_id: Uuid, outcome: Outcome) {
        let mut users = self.users.lock();
        if users.len() >= MAX_USERS && !users.contains_key(&user) {
            users.retain(|_, all| all.iter().any(|(_, outcome)| *outcome == Outcome::Unclear));
            if users.len() >= MAX_USERS {
                let any = users.keys().next().copied();
                any.map(|user| users.remove(&user));
            }
        }
        let all = users.entry(user).or_default();
        all.retain(|(id, _)| *id != key_id);
        if all.len() >= MAX_KEYS {
            all.remove(0);
        }
        all.push((key_id, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcome_of_each_key_is_remembered() {
        let outcomes = RevokeOutcomes::default();
        let [one, two] = [1, 2].map(Uuid::from_u128);
        assert_eq!(outcomes.of(7), []);
        outcomes.set(7, one, Outcome::Unclear);
        outcomes.set(7, two, Outcome::Clear);
        assert_eq!(
            outcomes.of(7),
            [(one, Outcome::Unclear), (two, Outcome::Clear)]
        );
        assert_eq!(outcomes.of(8), []);
        outcomes.set(7, one, Outcome::Clear);
        assert_eq!(
            outcomes.of(7),
            [(two, Outcome::Clear), (one, Outcome::Clear)]
        );
    }

    #[test]
    fn memory_is_bounded_and_unclear_outcomes_stay_longest() {
        let outcomes = RevokeOutcomes::default();
        for user in 0..MAX_USERS as u64 + 10 {
            let outcome = match user {
                3 => Outcome::Unclear,
                _ => Outcome::Clear,
            };
            outcomes.set(user, Uuid::from_u128(1), outcome);
        }
        assert!(outcomes.users.lock().len() <= MAX_USERS);
        assert_eq!(outcomes.of(3).len(), 1);
        for key in 0..20 {
            outcomes.set(3, Uuid::from_u128(key), Outcome::Clear);
        }
        assert_eq!(outcomes.of(3).len(), MAX_KEYS);
    }
}
