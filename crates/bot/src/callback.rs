//! The data of a button: an action for one user.
//!
//! The data comes back from a Telegram client, so anybody can forge it. A MAC binds version, action,
//! key, time and user: the bot refuses a forged button, or the button of another user, before it calls
//! Keyward. The key of the MAC is derived from the bot's token, so there is no other secret to store,
//! and buttons work after a restart.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use keyward_client::Secret;
use sha2::Sha256;
use uuid::Uuid;

/// The version of the format, which the MAC covers.
const VERSION: &str = "v1";
const LABEL: &[u8] = b"keyward-bot callback data";
const MAC_BYTES: usize = 16;
/// Telegram's limit for the data of a button.
const MAX_BYTES: usize = 64;

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
    Confirm(Uuid, u32),
    /// Repeats a confirmed Revoke of this key.
    Retry(Uuid),
}

impl Action {
    /// The letter in the data of a button, and the bytes of the key and the time.
    fn parts(self) -> (char, Vec<u8>) {
        match self {
            Self::Menu => ('m', Vec::new()),
            Self::Account => ('a', Vec::new()),
            Self::Key => ('k', Vec::new()),
            Self::Cancel(key_id) => ('n', key_id.as_bytes().into()),
            Self::Revoke(key_id) => ('r', key_id.as_bytes().into()),
            Self::Confirm(key_id, time) => {
                ('c', [&key_id.as_bytes()[..], &time.to_be_bytes()].concat())
            }
            Self::Retry(key_id) => ('t', key_id.as_bytes().into()),
        }
    }

    fn of(letter: &str, bytes: &[u8]) -> Option<Self> {
        let (key_id, time) = bytes.split_at_checked(16).unwrap_or((bytes, &[]));
        let (key_id, time) = (
            Uuid::from_slice(key_id),
            time.try_into().map(u32::from_be_bytes),
        );
        Some(match (letter, key_id, time, bytes.len()) {
            ("m", _, _, 0) => Self::Menu,
            ("a", _, _, 0) => Self::Account,
            ("k", _, _, 0) => Self::Key,
            ("n", Ok(key_id), _, 16) => Self::Cancel(key_id),
            ("r", Ok(key_id), _, 16) => Self::Revoke(key_id),
            ("c", Ok(key_id), Ok(time), _) => Self::Confirm(key_id, time),
            ("t", Ok(key_id), _, 16) => Self::Retry(key_id),
            _ => return None,
        })
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
    pub fn write(&self, user_id: u64, action: Action) -> String {
        let (letter, bytes) = action.parts();
        let signed = format!("{VERSION}.{letter}.{}", URL_SAFE_NO_PAD.encode(bytes));
        let mac = self.mac_of(user_id, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]))
    }

    /// The action of data that came back from `user_id`.
    ///
    /// # Errors
    ///
    /// Data that this bot did not write for this user.
    pub fn read(&self, user_id: u64, data: &str) -> Result<Action, InvalidData> {
        if data.len() > MAX_BYTES {
            return Err(InvalidData::Forged);
        }
        let version = data.split('.').next().unwrap_or_default();
        if version != VERSION {
            return Err(match is_version(version) {
                true => InvalidData::OtherVersion,
                false => InvalidData::Forged,
            });
        }
        self.verified(user_id, data).ok_or(InvalidData::Forged)
    }

    fn verified(&self, user_id: u64, data: &str) -> Option<Action> {
        let (signed, mac) = data.rsplit_once('.')?;
        let mac: [u8; MAC_BYTES] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        // Compares in constant time.
        self.mac_of(user_id, signed)
            .verify_truncated_left(&mac)
            .ok()?;
        let (_, action) = signed.split_once('.')?;
        let (letter, bytes) = action.split_once('.')?;
        Action::of(letter, &URL_SAFE_NO_PAD.decode(bytes).ok()?)
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

    fn actions() -> impl Strategy<Value = Action> {
        let key_id = any::<u128>().prop_map(Uuid::from_u128);
        prop_oneof![
            Just(Action::Menu),
            Just(Action::Account),
            Just(Action::Key),
            key_id.clone().prop_map(Action::Cancel),
            key_id.clone().prop_map(Action::Revoke),
            (key_id.clone(), any::<u32>()).prop_map(|(key_id, time)| Action::Confirm(key_id, time)),
            key_id.prop_map(Action::Retry),
        ]
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
            let data = codec().write(user, Action::Revoke(Uuid::from_u128(id)));
            let data = data.replacen(".r.", ".t.", 1);
            prop_assert_eq!(codec().read(user, &data), Err(InvalidData::Forged));
        }
    }

    #[test]
    fn other_versions_are_distinguished_from_forgeries() {
        for data in ["v0.m..x", "v2.menu", "v12", "v999.x"] {
            assert_eq!(
                codec().read(1, data),
                Err(InvalidData::OtherVersion),
                "{data}"
            );
        }
        for data in [
            "", "v", "v1", "v1.", "v1.m.", "v1.m..", "vx.m", "v1234.m", "w2.m",
        ] {
            assert_eq!(codec().read(1, data), Err(InvalidData::Forged), "{data}");
        }
    }
}
