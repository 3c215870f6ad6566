//! Which revocations users have asked for, and whether the end is known.
//!
//! It is a help, not a proof: what a restart forgets is asked again by the same button. While an
//! end is unclear, the same Revoke is free of limits, and no key is shown before it is answered.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

const MAX_USERS: usize = 10_000;
const MAX_KEYS: usize = 8;

/// What is known of a Revoke that was confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Keyward told how it stands.
    Clear,
    /// It did not.
    Unclear,
}

/// The last revocations of each user.
#[derive(Default)]
pub struct Confirmed {
    users: Mutex<HashMap<u64, Vec<(Uuid, End)>>>,
}

impl Confirmed {
    /// How the Revoke of this key ended, if it is remembered.
    pub fn end(&self, user: u64, key_id: Uuid) -> Option<End> {
        let users = self.users.lock();
        let mut ends = users.get(&user)?.iter();
        ends.find(|(id, _)| *id == key_id).map(|(_, end)| *end)
    }

    /// A key of the user whose Revoke has no known end; the oldest.
    pub fn unclear(&self, user: u64) -> Option<Uuid> {
        let users = self.users.lock();
        let mut ends = users.get(&user)?.iter();
        ends.find(|(_, end)| *end == End::Unclear)
            .map(|(id, _)| *id)
    }

    /// Remembers how a Revoke ended.
    pub fn set(&self, user: u64, key_id: Uuid, end: End) {
        let mut users = self.users.lock();
        if users.len() >= MAX_USERS && !users.contains_key(&user) {
            users.retain(|_, ends| ends.iter().any(|(_, end)| *end == End::Unclear));
            if users.len() >= MAX_USERS {
                let any = users.keys().next().copied();
                any.map(|user| users.remove(&user));
            }
        }
        let ends = users.entry(user).or_default();
        ends.retain(|(id, _)| *id != key_id);
        if ends.len() >= MAX_KEYS {
            ends.remove(0);
        }
        ends.push((key_id, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unclear_end_is_remembered_until_it_is_clear() {
        let confirmed = Confirmed::default();
        let [one, two] = [1, 2].map(Uuid::from_u128);
        assert_eq!((confirmed.end(7, one), confirmed.unclear(7)), (None, None));
        confirmed.set(7, one, End::Unclear);
        confirmed.set(7, two, End::Clear);
        assert_eq!(confirmed.unclear(7), Some(one));
        assert_eq!(confirmed.unclear(8), None);
        confirmed.set(7, one, End::Clear);
        assert_eq!(confirmed.unclear(7), None);
        assert_eq!(confirmed.end(7, one), Some(End::Clear));
    }

    #[test]
    fn memory_is_bounded() {
        let confirmed = Confirmed::default();
        for user in 0..MAX_USERS as u64 + 10 {
            let end = if user == 3 { End::Unclear } else { End::Clear };
            confirmed.set(user, Uuid::from_u128(1), end);
        }
        assert!(confirmed.users.lock().len() <= MAX_USERS);
        assert!(
            confirmed.unclear(3).is_some(),
            "what is unclear stays longer"
        );
        for key in 0..20 {
            confirmed.set(3, Uuid::from_u128(key), End::Clear);
        }
        assert_eq!(confirmed.users.lock()[&3].len(), MAX_KEYS);
    }
}
