//! The data of a button: an action for one user.
//!
//! The data comes back from a Telegram client, so anybody can forge it. A MAC binds version, action,
//! key, grace, time, place and user: the bot refuses a forged button, or the button of another user, before it calls
//! Keyward. The key of the MAC is derived from the bot's token, so there is no other secret to store,
//! and buttons work after a restart.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use keyward_client::Secret;
use sha2::Sha256;
use uuid::Uuid;

use crate::account::Tag;

/// The version of the format, which the MAC covers.
const VERSION: &str = "v2";
/// The version before there were slots and graces. Its buttons work, too.
const OLD_VERSION: &str = "v1";
const LABEL: &[u8] = b"keyward-bot callback data";
const MAC_BYTES: usize = 16;
/// Telegram's limit for the data of a button.
const MAX_BYTES: usize = 64;

/// The Revoke that a user has confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revocation {
    /// The key to revoke.
    pub key_id: Uuid,
    /// How long the key stays alive, in hours.
    pub grace: u16,
}

/// What a button does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Shows the main menu.
    Menu,
    /// Shows the account.
    Account,
    /// Shows the current key.
    Key,
    /// Shows the current key, after Cancel on the question whether to revoke this key.
    Cancel(Uuid),
    /// Asks whether to revoke this key.
    Revoke(Uuid),
    /// Revokes this key and creates its successor. The number is the time of the question, in seconds
    /// since 1970.
    Confirm(Revocation, u32),
    /// Repeats a confirmed Revoke.
    Retry(Revocation),
}

/// An action, and the place that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callback {
    /// What to do.
    pub action: Action,
    /// The tag of the slot and its account; `None` for a command, and for a button of the old version.
    pub tag: Option<Tag>,
}

impl Callback {
    /// The letter in the data of a button, and the bytes of the key, the grace, the time and the tag.
    fn parts(self) -> (char, Vec<u8>) {
        let of_key = |key_id: Uuid| key_id.into_bytes().to_vec();
        let of = |revocation: Revocation| {
            [
                &revocation.key_id.into_bytes()[..],
                &revocation.grace.to_be_bytes(),
            ]
            .concat()
        };
        let (letter, mut bytes) = match self.action {
            Action::Menu => ('m', Vec::new()),
            Action::Account => ('a', Vec::new()),
            Action::Key => ('k', Vec::new()),
            Action::Cancel(key_id) => ('n', of_key(key_id)),
            Action::Revoke(key_id) => ('r', of_key(key_id)),
            Action::Confirm(revocation, time) => {
                ('c', [&of(revocation)[..], &time.to_be_bytes()].concat())
            }
            Action::Retry(revocation) => ('t', of(revocation)),
        };
        bytes.extend(self.tag.into_iter().flatten());
        (letter, bytes)
    }

    fn of(version: &str, letter: &str, mut bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (first, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(*first)
        }
        let bytes = &mut bytes;
        let key_id = |bytes: &mut &[u8]| take(bytes).map(Uuid::from_bytes);
        let revocation = |bytes: &mut &[u8]| {
            let key_id = key_id(bytes)?;
            let grace = match version == OLD_VERSION {
                true => 0,
                false => u16::from_be_bytes(take(bytes)?),
            };
            Some(Revocation { key_id, grace })
        };
        let action = match letter {
            "m" => Action::Menu,
            "a" => Action::Account,
            "k" => Action::Key,
            "n" => Action::Cancel(key_id(bytes)?),
            "r" => Action::Revoke(key_id(bytes)?),
            "c" => Action::Confirm(revocation(bytes)?, u32::from_be_bytes(take(bytes)?)),
            "t" => Action::Retry(revocation(bytes)?),
            _ => return None,
        };
        let tag = match bytes.is_empty() {
            true => None,
            false => Some((*bytes).try_into().ok()?),
        };
        Some(Self { action, tag })
    }
}

/// Why data is not an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidData {
    /// Another version of the bot made it.
    OtherVersion,
    /// This bot did not make it for this user.
    Forged,
}

/// Writes and reads the data of buttons.
pub struct Codec {
    mac: Hmac<Sha256>,
}

impl Codec {
    /// The codec of the bot that has this token.
    pub fn new(token: &Secret) -> Self {
        let mut derived = new_hmac(token.expose().as_bytes());
        derived.update(LABEL);
        Self {
            mac: new_hmac(&derived.finalize().into_bytes()),
        }
    }

    /// The data of a button for `user_id`: at most 64 bytes.
    pub fn write(&self, user_id: u64, callback: Callback) -> String {
        let (letter, bytes) = callback.parts();
        let signed = format!("{VERSION}.{letter}.{}", URL_SAFE_NO_PAD.encode(bytes));
        let mac = self.mac_of(user_id, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]))
    }

    /// The action of data that came back from `user_id`.
    ///
    /// # Errors
    ///
    /// Data that this bot did not write for this user.
    pub fn read(&self, user_id: u64, data: &str) -> Result<Callback, InvalidData> {
        if data.len() > MAX_BYTES {
            return Err(InvalidData::Forged);
        }
        let version = data.split('.').next().unwrap_or_default();
        if ![VERSION, OLD_VERSION].contains(&version) {
            return Err(match is_version(version) {
                true => InvalidData::OtherVersion,
                false => InvalidData::Forged,
            });
        }
        self.verified(user_id, data).ok_or(InvalidData::Forged)
    }

    fn verified(&self, user_id: u64, data: &str) -> Option<Callback> {
        let (signed, mac) = data.rsplit_once('.')?;
        let mac: [u8; MAC_BYTES] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        // Compares in constant time.
        self.mac_of(user_id, signed)
            .verify_truncated_left(&mac)
            .ok()?;
        let (version, action) = signed.split_once('.')?;
        let (letter, bytes) = action.split_once('.')?;
        Callback::of(version, letter, &URL_SAFE_NO_PAD.decode(bytes).ok()?)
    }

    /// The user id has a fixed length, so it cannot be confused with a part of the text.
    fn mac_of(&self, user_id: u64, signed: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(&user_id.to_be_bytes());
        mac.update(signed.as_bytes());
        mac
    }
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v')
        .is_some_and(|n| (1..=3).contains(&n.len()) && n.bytes().all(|byte| byte.is_ascii_digit()))
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn new_hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codec() -> Codec {
        Codec::new(&Secret::new("123:canary".to_owned()))
    }

    fn actions() -> impl Strategy<Value = Callback> {
        let key_id = any::<u128>().prop_map(Uuid::from_u128);
        let revocation = (key_id.clone(), any::<u16>());
        let revocation = revocation.prop_map(|(key_id, grace)| Revocation { key_id, grace });
        let action = prop_oneof![
            Just(Action::Menu),
            Just(Action::Account),
            Just(Action::Key),
            key_id.clone().prop_map(Action::Cancel),
            key_id.clone().prop_map(Action::Revoke),
            (revocation.clone(), any::<u32>()).prop_map(|(of, time)| Action::Confirm(of, time)),
            revocation.prop_map(Action::Retry),
        ];
        (action, any::<Option<Tag>>()).prop_map(|(action, tag)| Callback { action, tag })
    }

    proptest! {
        #[test]
        fn written_data_is_read(user: u64, action in actions()) {
            let data = codec().write(user, action);
            prop_assert!(data.len() <= MAX_BYTES, "{}", data);
            prop_assert_eq!(codec().read(user, &data), Ok(action));
        }

        #[test]
        fn other_users_and_bots_cannot_use_a_button(user: u64, other: u64, action in actions()) {
            prop_assume!(user != other);
            let data = codec().write(user, action);
            prop_assert_eq!(codec().read(other, &data), Err(InvalidData::Forged));
            let other_bot = Codec::new(&Secret::new("124:canary".to_owned()));
            prop_assert_eq!(other_bot.read(user, &data), Err(InvalidData::Forged));
        }

        #[test]
        fn data_with_a_changed_byte_is_refused(user: u64, action in actions(), at: usize, to in "[ -~]") {
            let mut data = codec().write(user, action);
            let at = at % data.len();
            prop_assume!(data[at..=at] != to);
            data.replace_range(at..=at, &to);
            // A changed version is refused, too.
            prop_assert!(codec().read(user, &data).is_err());
        }

        #[test]
        fn arbitrary_data_is_refused_without_a_panic(user: u64, data in ".{0,200}") {
            prop_assert!(codec().read(user, &data).is_err());
        }

        #[test]
        fn an_action_cannot_be_changed_into_another(user: u64, id: u128) {
            let action = Action::Revoke(Uuid::from_u128(id));
            let data = codec().write(user, Callback { action, tag: None });
            let data = data.replacen(".r.", ".n.", 1);
            prop_assert_eq!(codec().read(user, &data), Err(InvalidData::Forged));
        }
    }

    #[test]
    fn other_versions_are_distinguished_from_forgeries() {
        for data in ["v0.m..x", "v3.menu", "v12", "v999.x"] {
            assert_eq!(
                codec().read(1, data),
                Err(InvalidData::OtherVersion),
                "{data}"
            );
        }
        for data in [
            "", "v", "v1", "v2", "v1.", "v1.m.", "v2.m..", "vx.m", "v1234.m", "w2.m",
        ] {
            assert_eq!(codec().read(1, data), Err(InvalidData::Forged), "{data}");
        }
    }

    #[test]
    fn buttons_of_the_old_version_are_read() {
        let key_id = Uuid::from_u128(7);
        let of = Revocation { key_id, grace: 0 };
        let (key, time) = (&key_id.as_bytes()[..], 5_u32.to_be_bytes());
        for (letter, bytes, action) in [
            ("m", vec![], Action::Menu),
            ("k", vec![], Action::Key),
            ("n", key.to_vec(), Action::Cancel(key_id)),
            ("c", [key, &time[..]].concat(), Action::Confirm(of, 5)),
            ("t", key.to_vec(), Action::Retry(of)),
        ] {
            let signed = format!("v1.{letter}.{}", URL_SAFE_NO_PAD.encode(bytes));
            let mac = codec().mac_of(9, &signed).finalize().into_bytes();
            let data = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]));
            assert_eq!(codec().read(9, &data), Ok(Callback { action, tag: None }));
        }
    }
}
