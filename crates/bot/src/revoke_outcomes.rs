//! Remembers which revocations users have confirmed, and whether their outcome is clear.
//!
//! This memory is a convenience, not a proof: after a restart, the same button repeats the same
//! Revoke.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::account::Place;
use crate::callback::Revocation;

const MAX_PLACES: usize = 10_000;
const MAX_KEYS: usize = 8;

/// The last confirmed revocations in each place, of all bots of the process.
#[derive(Default)]
pub struct RevokeOutcomes {
    places: Mutex<HashMap<Place, Vec<(Revocation, bool)>>>,
}

impl RevokeOutcomes {
    /// The revocations in a place, oldest first, and whether each is unclear.
    pub fn of(&self, place: &Place) -> Vec<(Revocation, bool)> {
        self.places.lock().get(place).cloned().unwrap_or_default()
    }

    /// Remembers the outcome of a Revoke.
    pub fn set(&self, place: &Place, revocation: Revocation, is_unclear: bool) {
        let mut places = self.places.lock();
        if places.len() >= MAX_PLACES && !places.contains_key(place) {
            places.retain(|_, all| all.iter().any(|(_, is_unclear)| *is_unclear));
            if places.len() >= MAX_PLACES {
                let any = places.keys().next().cloned();
                any.map(|place| places.remove(&place));
            }
        }
        let all = places.entry(place.clone()).or_default();
        all.retain(|(known, _)| known.key_id != revocation.key_id);
        if all.len() >= MAX_KEYS {
            all.remove(0);
        }
        all.push((revocation, is_unclear));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn place(number: usize) -> Place {
        Place {
            account: number.to_string(),
            slot: "default".to_owned(),
        }
    }

    fn of(key_id: u128, grace: u16) -> Revocation {
        let key_id = Uuid::from_u128(key_id);
        Revocation { key_id, grace }
    }

    #[test]
    fn the_last_outcome_of_each_key_is_remembered() {
        let outcomes = RevokeOutcomes::default();
        let (seven, eight) = (place(7), place(8));
        assert_eq!(outcomes.of(&seven), []);
        outcomes.set(&seven, of(1, 5), true);
        outcomes.set(&seven, of(2, 0), false);
        assert_eq!(outcomes.of(&seven), [(of(1, 5), true), (of(2, 0), false)]);
        assert_eq!(outcomes.of(&eight), []);
        outcomes.set(&seven, of(1, 0), false);
        assert_eq!(outcomes.of(&seven), [(of(2, 0), false), (of(1, 0), false)]);
    }

    #[test]
    fn memory_is_bounded_and_unclear_outcomes_stay_longest() {
        let outcomes = RevokeOutcomes::default();
        for number in 0..MAX_PLACES + 10 {
            outcomes.set(&place(number), of(1, 0), number == 3);
        }
        assert!(outcomes.places.lock().len() <= MAX_PLACES);
        assert_eq!(outcomes.of(&place(3)).len(), 1);
        for key in 0..20 {
            outcomes.set(&place(3), of(key, 0), false);
        }
        assert_eq!(outcomes.of(&place(3)).len(), MAX_KEYS);
    }
}
