//! Authenticates callers: checks a bearer token, or the name in a client certificate, under the same log and
//! fence as a key, and knows the roles of the token.

mod certificate;
pub mod expiry;
mod unknown;

use std::sync::Arc;

use crate::cache::{Admitted, Consistency, Entry, Lookup, LookupError};
use keyward_core::fence::{Now, token_state_at};
use keyward_core::key::{
    KeyState, Prefix, Role, San, SecretText, TextForm, Timestamp, TokenRecord,
};
use keyward_crypto::{CurrentKeyring, Digest};
use keyward_store::{Actor, Origin};

pub use certificate::Certificate;
use unknown::UnknownNames;

/// Why a caller is refused.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The request has no token.
    #[error("the request has no token; send the metadata `authorization: Bearer <token>`")]
    Missing,
    /// The token is malformed, unknown, expired or revoked.
    #[error("{0}")]
    Invalid(&'static str),
    /// The client certificate names no caller, or several, or is expired.
    #[error("{0}")]
    Certificate(&'static str),
    /// The token is valid, but lacks the role that the call requires.
    #[error("the token '{name}' lacks the role {role}; use a token with that role", role = .role.name())]
    RoleRequired {
        /// The caller's name.
        name: String,
        /// The required role.
        role: Role,
    },
    /// The token cannot be checked now.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    entry: Arc<Entry<TokenRecord>>,
    /// The end of the certificate that proves it; `NEVER` for a token.
    end: Timestamp,
    /// From where its call comes, if the call may change something.
    origin: Option<Arc<Origin>>,
}

impl Caller {
    fn new(entry: Arc<Entry<TokenRecord>>, end: Timestamp) -> Self {
        Self {
            entry,
            end,
            origin: None,
        }
    }

    /// Whether the caller has `role`.
    pub fn has(&self, role: Role) -> bool {
        self.entry.kept().roles.contains(role)
    }

    /// Refuses a caller that does not have `role`.
    pub fn require(&self, role: Role) -> Result<(), Denied> {
        if self.has(role) {
            return Ok(());
        }
        Err(Denied::RoleRequired {
            name: self.entry.kept().name.to_string(),
            role,
        })
    }

    /// The caller as the log and the audit name it.
    pub fn actor(&self) -> Actor {
        let record = self.entry.kept();
        Actor {
            token: Some(record.id),
            name: record.name.to_string(),
            origin: self.origin.as_deref().cloned().unwrap_or_default(),
        }
    }

    /// The caller of a call from `origin`.
    pub fn at(self, origin: Origin) -> Self {
        let origin = Some(Arc::new(origin));
        Self { origin, ..self }
    }
}

/// Authenticates callers.
#[derive(Debug)]
pub struct Callers {
    prefixes: [Prefix; 1],
    keyring: Arc<CurrentKeyring>,
    tokens: Lookup<TokenRecord>,
    unknown: UnknownNames,
}

impl Callers {
    /// Accepts tokens with the prefix `prefix`.
    pub fn new(prefix: Prefix, keyring: Arc<CurrentKeyring>, tokens: Lookup<TokenRecord>) -> Self {
        Self {
            prefixes: [prefix],
            keyring,
            tokens,
            unknown: UnknownNames::new(),
        }
    }

    /// Authenticates a caller by its values of `authorization`, or by the certificate of its connection if it
    /// has none. A token that was sent decides alone: it speaks for this call, while a proxy's certificate
    /// speaks for every call of its connection.
    pub async fn authenticate<'v>(
        &self,
        mut authorization: impl Iterator<Item = &'v [u8]>,
        certificate: Option<&Certificate>,
    ) -> Result<Caller, Denied> {
        match (authorization.next(), certificate) {
            (Some(_), _) if authorization.next().is_some() => Err(Denied::Invalid(
                "the request has more than one token; send one",
            )),
            (Some(value), _) => self.by_token(value).await,
            (None, Some(certificate)) => self.by_certificate(certificate).await,
            (None, None) => Err(Denied::Missing),
        }
    }

    /// Invented tokens are refused without I/O.
    async fn by_token(&self, value: &[u8]) -> Result<Caller, Denied> {
        let text = bearer(value).ok_or(Denied::Invalid(
            "the authorization metadata does not have the form `Bearer <token>`",
        ))?;
        let unknown = || Denied::Invalid("the token is unknown or revoked");
        let (prefix, body) = TextForm::read(text, &self.prefixes)
            .map_err(|_| Denied::Invalid("the text does not have the form of a Keyward token"))?;
        let digest = self.keyring.load().digest_of(prefix, &body, text);
        let Some((digest, _)) = digest else {
            // An instance that is not fresh may lack the keyring's newest generation.
            return Err(match self.tokens.is_fresh() {
                true => unknown(),
                false => LookupError::NotFresh.into(),
            });
        };
        let found = self.find(&digest).await?.ok_or_else(unknown)?;
        match token_state_at(found.entry.kept(), Timestamp::NEVER, found.at) {
            KeyState::Active => Ok(Caller::new(found.entry, Timestamp::NEVER)),
            KeyState::Expired => Err(Denied::Invalid("the token has expired")),
            _ => Err(unknown()),
        }
    }

    /// Exactly one name must belong to a caller.
    async fn by_certificate(&self, certificate: &Certificate) -> Result<Caller, Denied> {
        let mut known = None;
        for name in certificate.names().map_err(Denied::Certificate)? {
            let found = self.find_name(name).await?;
            if found.is_some() && known.is_some() {
                return Err(Denied::Certificate(
                    "several names of the client certificate belong to callers; it must name one",
                ));
            }
            known = known.or(found);
        }
        let unknown = || {
            Denied::Certificate("no name of the client certificate belongs to a caller; create one")
        };
        let found = known.ok_or_else(unknown)?;
        match token_state_at(found.entry.kept(), certificate.end(), found.at) {
            KeyState::Active => Ok(Caller::new(found.entry, certificate.end())),
            KeyState::Expired => Err(Denied::Certificate(
                "the client certificate or its caller has expired",
            )),
            _ => Err(unknown()),
        }
    }

    /// A caller with a name was created here.
    pub fn created(&self) {
        self.unknown.created();
    }

    async fn find_name(&self, san: &San) -> Result<Option<Admitted<TokenRecord>>, LookupError> {
        let digest = Digest::of_san(san);
        let read = self.unknown.begin(self.tokens.now().boot);
        if self.unknown.has(&digest, read) {
            return Ok(None);
        }
        let found = self.find(&digest).await?;
        if found.is_none() {
            self.unknown.note(digest, read);
        }
        Ok(found)
    }

    async fn find(&self, digest: &Digest) -> Result<Option<Admitted<TokenRecord>>, LookupError> {
        self.tokens.find(digest, Consistency::Default).await
    }

    /// Whether the caller of an earlier call is still valid at `now`, which was read after this call
    /// arrived. No I/O. `false` says nothing: authenticate it.
    pub fn is_still_valid(&self, caller: &Caller, now: Now) -> bool {
        let found = self.tokens.admit_again(&caller.entry, now);
        found.is_some_and(|found| {
            token_state_at(found.entry.kept(), caller.end, found.at) == KeyState::Active
        })
    }

    /// Whether the caller of an earlier call is still valid, as [`Self::is_still_valid`] says.
    pub fn is_valid_now(&self, caller: &Caller) -> bool {
        self.is_still_valid(caller, self.tokens.now())
    }

    /// The prefix of tokens.
    pub fn prefix(&self) -> &Prefix {
        &self.prefixes[0]
    }
}

/// The token in a file: its only line. Bytes that are not UTF-8 give an empty token.
pub fn from_file(bytes: &[u8]) -> SecretText {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    SecretText::new(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The token in a value of `authorization`.
pub fn bearer(value: &[u8]) -> Option<&str> {
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
    fn the_bearer_scheme_ignores_case_and_spaces() {
        assert_eq!(bearer(b"Bearer kwt_x"), Some("kwt_x"));
        assert_eq!(bearer(b"bearer  kwt_x"), Some("kwt_x"));
        for wrong in [&b"kwt_x"[..], b"Basic kwt_x", b"Bearer", b"Bearer \xff"] {
            assert_eq!(bearer(wrong), None);
        }
    }
}
