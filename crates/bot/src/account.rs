//! Maps a Telegram user to an account in Keyward.
//!
//! The mapping is a template, so a deployment with other account names needs no code. It depends on
//! the user id alone, because a user can change everything else.

/// The placeholder of the user id in a template.
const USER_ID: &str = "{user_id}";
/// Keyward's limit for an `account_id`, in bytes.
const MAX_BYTES: usize = 128;

/// A template that contains `{user_id}`, by default `tg-{user_id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// A template without exactly one `{user_id}`, or with accounts that Keyward refuses; the text
    /// says what is valid.
    pub fn parse(template: &str) -> Result<Self, String> {
        let accounts = Self {
            template: template.to_owned(),
        };
        let longest = accounts.of(u64::MAX);
        let is_valid = template.matches(USER_ID).count() == 1
            && longest.len() <= MAX_BYTES
            && longest.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
            && longest.trim() == longest;
        is_valid.then_some(accounts).ok_or_else(|| {
            format!(
                "takes printable ASCII that holds {USER_ID} once, such as {}; the account has \
                 at most {MAX_BYTES} bytes and no space at either end",
                Self::DEFAULT
            )
        })
    }

    /// The account of a Telegram user.
    pub fn of(&self, user_id: u64) -> String {
        self.template.replace(USER_ID, &user_id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_id_has_an_account() {
        let accounts = Accounts::parse(Accounts::DEFAULT).unwrap();
        assert_eq!(accounts.of(42), "tg-42");
        let accounts = Accounts::parse("test/{user_id}/main").unwrap();
        assert_eq!(accounts.of(7), "test/7/main");
    }

    #[test]
    fn a_template_respects_the_limits_of_an_account_id() {
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
