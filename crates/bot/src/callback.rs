//! What a button carries: an action, for one user alone.
//!
//! The data comes back from a Telegram client, so anybody can send anything. A MAC binds version,
//! action, key and user: a forged button, and one of another user, is refused before anything is
//! asked of Keyward. Its key comes from the bot's token, so there is no further secret to keep,
//! and a button outlives a restart.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use keyward_client::Secret;
use sha2::Sha256;
use uuid::Uuid;

/// The version of the format. A new one gets a new name, which also goes into the MAC.
const VERSION: &str = "v1";
const LABEL: &[u8] = b"keyward-bot callback data";
const MAC_BYTES: usize = 16;
/// Telegram's limit.
const MAX_BYTES: usize = 64;

/// What a button does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Shows the main menu.
    Menu,
    /// Shows the account.
    Account,
    /// Shows the key of the account as it is now.
    Key,
    /// The same, after the question whether to revoke this key was answered with no.
    Cancel(Uuid),
    /// Asks whether to revoke this key.
    Revoke(Uuid),
    /// Revokes this key and makes its successor. Pressed again, it asks for the same again.
    Confirm(Uuid),
}

impl Action {
    const fn letter(self) -> char {
        match self {
            Self::Menu => 'm',
            Self::Account => 'a',
            Self::Key => 'k',
            Self::Cancel(_) => 'n',
            Self::Revoke(_) => 'r',
            Self::Confirm(_) => 'c',
        }
    }

    const fn key_id(self) -> Option<Uuid> {
        match self {
            Self::Cancel(key_id) | Self::Revoke(key_id) | Self::Confirm(key_id) => Some(key_id),
            Self::Menu | Self::Account | Self::Key => None,
        }
    }

    fn of(letter: &str, key_id: Option<Uuid>) -> Option<Self> {
        Some(match (letter, key_id) {
            ("m", None) => Self::Menu,
            ("a", None) => Self::Account,
            ("k", None) => Self::Key,
            ("n", Some(key_id)) => Self::Cancel(key_id),
            ("r", Some(key_id)) => Self::Revoke(key_id),
            ("c", Some(key_id)) => Self::Confirm(key_id),
            _ => return None,
        })
    }
}

/// Why data is not an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was made by another version of the bot.
    Version,
    /// It was not made by this bot for this user.
    Forged,
}

/// Writes and reads callback data.
pub struct Codec {
    mac: Hmac<Sha256>,
}

impl Codec {
    /// The codec of the bot that has this token.
    pub fn new(token: &Secret) -> Self {
        let mut derived = hmac_of(token.expose().as_bytes());
        derived.update(LABEL);
        Self {
            mac: hmac_of(&derived.finalize().into_bytes()),
        }
    }

    /// The data of a button for `user_id`: at most 64 bytes.
    pub fn write(&self, user_id: u64, action: Action) -> String {
        let key_id = action.key_id();
        let key_id = key_id.map_or_else(String::new, |id| URL_SAFE_NO_PAD.encode(id.as_bytes()));
        let signed = format!("{VERSION}.{}.{key_id}", action.letter());
        let mac = self.over(user_id, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&mac[..MAC_BYTES]))
    }

    /// The action of data that came back from `user_id`.
    ///
    /// # Errors
    ///
    /// Data that this bot did not write for this user.
    pub fn read(&self, user_id: u64, data: &str) -> Result<Action, Refused> {
        if data.len() > MAX_BYTES {
            return Err(Refused::Forged);
        }
        let version = data.split('.').next().unwrap_or_default();
        if version != VERSION {
            return Err(match is_version(version) {
                true => Refused::Version,
                false => Refused::Forged,
            });
        }
        self.verified(user_id, data).ok_or(Refused::Forged)
    }

    fn verified(&self, user_id: u64, data: &str) -> Option<Action> {
        let (signed, mac) = data.rsplit_once('.')?;
        let mac: [u8; MAC_BYTES] = URL_SAFE_NO_PAD.decode(mac).ok()?.try_into().ok()?;
        // In constant time.
        self.over(user_id, signed)
            .verify_truncated_left(&mac)
            .ok()?;
        let (letter, key_id) = signed
            .strip_prefix(VERSION)?
            .strip_prefix('.')?
            .split_once('.')?;
        let key_id = match key_id {
            "" => None,
            text => Some(Uuid::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?),
        };
        Action::of(letter, key_id)
    }

    /// The user id has a fixed length, so no text can pass for a part of it.
    fn over(&self, user_id: u64, signed: &str) -> Hmac<Sha256> {
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
fn hmac_of(key: &[u8]) -> Hmac<Sha256> {
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
            key_id.prop_map(Action::Confirm),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(user: u64, action in actions()) {
            let data = codec().write(user, action);
            prop_assert!(data.len() <= MAX_BYTES, "{}", data);
            prop_assert_eq!(codec().read(user, &data), Ok(action));
        }

        #[test]
        fn nobody_else_can_use_it(user: u64, other: u64, action in actions()) {
            prop_assume!(user != other);
            let data = codec().write(user, action);
            prop_assert_eq!(codec().read(other, &data), Err(Refused::Forged));
            let other_bot = Codec::new(&Secret::new("124:canary".to_owned()));
            prop_assert_eq!(other_bot.read(user, &data), Err(Refused::Forged));
        }

        #[test]
        fn no_changed_byte_passes(user: u64, action in actions(), at: usize, to in "[ -~]") {
            let mut data = codec().write(user, action);
            let at = at % data.len();
            prop_assume!(data[at..=at] != to);
            data.replace_range(at..=at, &to);
            // Another version is not an action either.
            prop_assert!(codec().read(user, &data).is_err());
        }

        #[test]
        fn anything_is_refused_calmly(user: u64, data in ".{0,200}") {
            prop_assert!(codec().read(user, &data).is_err());
        }

        #[test]
        fn an_action_is_not_another(user: u64, id: u128) {
            let data = codec().write(user, Action::Revoke(Uuid::from_u128(id)));
            let data = data.replacen(".r.", ".c.", 1);
            prop_assert_eq!(codec().read(user, &data), Err(Refused::Forged));
        }
    }

    #[test]
    fn another_version_is_told_apart() {
        for data in ["v0.m..x", "v2.menu", "v12", "v999.x"] {
            assert_eq!(codec().read(1, data), Err(Refused::Version), "{data}");
        }
        for data in [
            "", "v", "v1", "v1.", "v1.m.", "v1.m..", "vx.m", "v1234.m", "w2.m",
        ] {
            assert_eq!(codec().read(1, data), Err(Refused::Forged), "{data}");
        }
    }
}
