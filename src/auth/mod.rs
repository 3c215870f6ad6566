//! Who is calling: a bearer token, judged under the same log and predicate as a key, and the
//! roles it carries.

use std::sync::Arc;

use crate::cache::{Consistency, Entry, Lookup, LookupError};
use keyward_core::fence::token_lives;
use keyward_core::key::{Prefix, Role, SecretText, TextForm, TokenRecord};
use keyward_crypto::Keyring;
use keyward_store::Actor;

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No token was sent.
    #[error("no token was sent: send metadata `authorization: Bearer <token>`")]
    Missing,
    /// What was sent is no living token.
    #[error("{0}")]
    Invalid(&'static str),
    /// The token lives, but lacks the role that the call takes.
    #[error("the token '{name}' lacks the role {role}", role = .role.name())]
    RoleRequired {
        /// The caller's name.
        name: String,
        /// The role that is needed.
        role: Role,
    },
    /// The token cannot be judged now.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// A caller that was let in.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Entry<TokenRecord>>);

impl Caller {
    /// Whether the caller holds `role`.
    pub fn has(&self, role: Role) -> bool {
        self.0.record().roles.contains(role)
    }

    /// Refuses a caller that does not hold `role`.
    pub fn require(&self, role: Role) -> Result<(), Denied> {
        if self.has(role) {
            return Ok(());
        }
        Err(Denied::RoleRequired {
            name: self.0.record().name.to_string(),
            role,
        })
    }

    /// The caller as the log and the audit name it.
    pub fn actor(&self) -> Actor {
        let record = self.0.record();
        Actor {
            token: Some(record.id),
            name: record.name.to_string(),
        }
    }
}

/// Judges tokens.
#[derive(Debug)]
pub struct Callers {
    prefixes: [Prefix; 1],
    keyring: Arc<Keyring>,
    tokens: Lookup<TokenRecord>,
}

impl Callers {
    /// Judges tokens with the prefix `prefix`.
    pub fn new(prefix: Prefix, keyring: Arc<Keyring>, tokens: Lookup<TokenRecord>) -> Self {
        Self {
            prefixes: [prefix],
            keyring,
            tokens,
        }
    }

    /// Lets in whoever sent these values of `authorization`. Invented tokens are refused without
    /// any I/O.
    pub async fn authenticate<'v>(
        &self,
        mut authorization: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Caller, Denied> {
        let value = authorization.next().ok_or(Denied::Missing)?;
        if authorization.next().is_some() {
            return Err(Denied::Invalid("two tokens were sent: send one"));
        }
        let text = bearer(value).ok_or(Denied::Invalid(
            "the authorization metadata is not of the form `Bearer <token>`",
        ))?;
        let unknown = || Denied::Invalid("the token is not known, or is revoked");
        let (prefix, body) = TextForm::read(text, &self.prefixes)
            .map_err(|_| Denied::Invalid("the token is not the text of a Keyward token"))?;
        let (digest, _) = self
            .keyring
            .digest_of(prefix, &body, text)
            .ok_or_else(unknown)?;
        let found = self
            .tokens
            .find(&digest, Consistency::Default)
            .await?
            .ok_or_else(unknown)?;
        if !token_lives(found.entry.record(), found.at) {
            return Err(unknown());
        }
        Ok(Caller(found.entry))
    }

    /// The prefix of tokens.
    pub fn prefix(&self) -> &Prefix {
        &self.prefixes[0]
    }
}

/// The token that a file holds: its one line. What is no text is no token either.
pub fn from_file(bytes: &[u8]) -> SecretText {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    SecretText::new(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn bearer(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::bearer;

    #[test]
    fn the_scheme_is_read_as_http_says() {
        assert_eq!(bearer(b"Bearer kwt_x"), Some("kwt_x"));
        assert_eq!(bearer(b"bearer  kwt_x"), Some("kwt_x"));
        for wrong in [&b"kwt_x"[..], b"Basic kwt_x", b"Bearer", b"Bearer \xff"] {
            assert_eq!(bearer(wrong), None);
        }
    }
}
