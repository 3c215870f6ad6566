//! From a Telegram user to the account whose key is shown.
//!
//! The mapping is a template, so that a deployment that knows its users by other names replaces it
//! without code. It depends on the user id alone: a user can change everything else.

use std::fmt;

/// What stands for the user id in a template.
const USER_ID: &str = "{user_id}";
/// Keyward's limit for an `account_id`.
const MAX_BYTES: usize = 128;

/// The mapping: text with `{user_id}` in it, `tg-{user_id}` by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    template: String,
}

impl Accounts {
    /// The default template.
    pub const DEFAULT: &str = "tg-{user_id}";

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// What a template takes, if this is none: `{user_id}` once, and nothing that Keyward would
    /// refuse in an `account_id`.
    pub fn parse(template: &str) -> Result<Self, String> {
        let accounts = Self {
            template: template.to_owned(),
        };
        let longest = accounts.of(u64::MAX);
        let is_fine = template.matches(USER_ID).count() == 1
            && longest.len() <= MAX_BYTES
            && longest.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
            && longest.trim() == longest;
        is_fine.then_some(accounts).ok_or_else(|| {
            format!(
                "takes printable ASCII that holds {USER_ID} once and makes at most {MAX_BYTES} \
                 bytes, without a space at either end, such as {}",
                Self::DEFAULT
            )
        })
    }

    /// The account of a Telegram user.
    pub fn of(&self, user_id: u64) -> String {
        self.template.replace(USER_ID, &user_id.to_string())
    }
}

impl Default for Accounts {
    fn default() -> Self {
        let template = Self::DEFAULT.to_owned();
        Self { template }
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_an_account() {
        let accounts = Accounts::parse(Accounts::DEFAULT).unwrap();
        assert_eq!(accounts.of(42), "tg-42");
        let accounts = Accounts::parse("test/{user_id}/main").unwrap();
        assert_eq!(accounts.of(7), "test/7/main");
    }

    #[test]
    fn a_template_keeps_the_limits_of_an_account_id() {
        let long = format!("{}{USER_ID}", "x".repeat(109));
        let longest = format!("{}{USER_ID}", "x".repeat(108));
        assert!(Accounts::parse(&longest).is_ok());
        for template in [
            "",
            "tg",
            "{user_id}{user_id}",
            " {user_id}",
            "{user_id} ",
            "ü{user_id}",
            "\t{user_id}",
            &long,
        ] {
            assert!(Accounts::parse(template).is_err(), "{template:?}");
        }
    }
}
