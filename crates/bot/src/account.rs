//! The account of a Telegram user in Keyward: a template names it, or the host product does.
//!
//! A template depends on the user id alone, because a user can change everything else.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::events::Person;
use crate::host::Host;

/// The placeholder of the user id in a template.
const USER_ID: &str = "{user_id}";
/// Keyward's limit for an `account_id`, in bytes.
const MAX_BYTES: usize = 128;

/// Names a place in the data of a button.
pub type Tag = [u8; 5];

/// A slot of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The account id in Keyward.
    pub account: String,
    /// The name of the slot.
    pub slot: String,
}

impl Place {
    /// The tag of this place. The MAC of a button covers it, so it needs no key.
    pub fn tag(&self) -> Tag {
        // No account id contains a line break.
        let hash = Sha256::digest(format!("{}\n{}", self.account, self.slot));
        std::array::from_fn(|at| hash.get(at).copied().unwrap_or_default())
    }
}

/// An account, and what the host product wants its user to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The account id in Keyward.
    pub id: String,
    /// Lines for the screen of the account.
    pub lines: Vec<Line>,
    /// Buttons for the same screen.
    pub links: Vec<Link>,
}

/// A line on the screen of the account, such as a balance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// What the value is.
    pub label: String,
    /// The value.
    pub value: String,
    /// Whether a tap copies the value.
    #[serde(default)]
    pub copyable: bool,
}

/// A button that opens a page of the host product.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Link {
    /// The text of the button.
    pub text: String,
    /// The page.
    pub url: String,
}

/// Why the bot does not know the account of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// The user has none. The links lead to the host product.
    NotRegistered(Vec<Link>),
    /// The host product does not answer, or its answer is wrong.
    Unknown,
}

/// Names the accounts of users.
pub enum Accounts {
    /// By a template.
    Template(Template),
    /// By the host product.
    Host(Host),
}

impl Accounts {
    /// The account of a person.
    ///
    /// # Errors
    ///
    /// The host product does not know it.
    pub async fn of(&self, person: Person) -> Result<Account, NoAccount> {
        match self {
            Self::Template(template) => Ok(Account {
                id: template.account(person.id),
                ..Account::default()
            }),
            Self::Host(host) => host.account(person).await,
        }
    }
}

/// Whether Keyward accepts this account id.
pub fn is_account_id(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len())
        && id.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        && id.trim() == id
}

/// A template that contains `{user_id}`, by default `tg-{user_id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// The default template.
    pub const DEFAULT: &str = "tg-{user_id}";

    /// Reads a template.
    ///
    /// # Errors
    ///
    /// A template without exactly one `{user_id}`, or with accounts that Keyward refuses; the text
    /// says what is valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = Self(text.to_owned());
        let is_valid =
            text.matches(USER_ID).count() == 1 && is_account_id(&template.account(u64::MAX));
        is_valid.then_some(template).ok_or_else(|| {
            format!(
                "takes printable ASCII that holds {USER_ID} once, such as {}; the account has \
                 at most {MAX_BYTES} bytes and no space at either end",
                Self::DEFAULT
            )
        })
    }

    /// The text before the user id.
    pub fn prefix(&self) -> &str {
        self.0.split(USER_ID).next().unwrap_or_default()
    }

    /// The account of a Telegram user.
    pub fn account(&self, user_id: u64) -> String {
        self.0.replace(USER_ID, &user_id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_id_has_an_account() {
        let template = Template::parse(Template::DEFAULT).unwrap();
        assert_eq!(template.account(42), "tg-42");
        let template = Template::parse("test/{user_id}/main").unwrap();
        assert_eq!(template.account(7), "test/7/main");
    }

    #[test]
    fn a_template_respects_the_limits_of_an_account_id() {
        let long = format!("{}{USER_ID}", "x".repeat(109));
        let longest = format!("{}{USER_ID}", "x".repeat(108));
        assert!(Template::parse(&longest).is_ok());
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
            assert!(Template::parse(template).is_err(), "{template:?}");
        }
    }
}
