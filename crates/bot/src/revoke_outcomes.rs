//! Remembers which revocations users have confirmed, and whether their outcome is clear.
//!
//! This memory is a convenience, not a proof: after a restart, the same button repeats the same
//! Revoke.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

const MAX_USERS: usize = 10_000;
const MAX_KEYS: usize = 8;

/// The last confirmed revocations of each user.
#[derive(Default)]
pub struct RevokeOutcomes {
    users: Mutex<HashMap<u64, Vec<(Uuid, bool)>>>,
}

impl RevokeOutcomes {
    /// The revocations of a user, oldest first, and whether each is unclear.
    pub fn of(&self, user: u64) -> Vec<(Uuid, bool)> {
        self.users.lock().get(&user).cloned().unwrap_or_default()
    }

    /// Remembers the outcome of a Revoke.
    pub fn set(&self, user: u64, key_id: Uuid, is_unclear: bool) {
        let mut users = self.users.lock();
        if users.len() >= MAX_USERS && !users.contains_key(&user) {
            users.retain(|_, all| all.iter().any(|(_, is_unclear)| *is_unclear));
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
        all.push((key_id, is_unclear));
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
        outcomes.set(7, one, true);
        outcomes.set(7, two, false);
        assert_eq!(outcomes.of(7), [(one, true), (two, false)]);
        assert_eq!(outcomes.of(8), []);
        outcomes.set(7, one, false);
        assert_eq!(outcomes.of(7), [(two, false), (one, false)]);
    }

    #[test]
    fn memory_is_bounded_and_unclear_outcomes_stay_longest() {
        let outcomes = RevokeOutcomes::default();
        for user in 0..MAX_USERS as u64 + 10 {
            outcomes.set(user, Uuid::from_u128(1), user == 3);
        }
        assert!(outcomes.users.lock().len() <= MAX_USERS);
        assert_eq!(outcomes.of(3).len(), 1);
        for key in 0..20 {
            outcomes.set(3, Uuid::from_u128(key), false);
        }
        assert_eq!(outcomes.of(3).len(), MAX_KEYS);
    }
}
