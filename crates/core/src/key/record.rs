//! The records of keys and of callers' tokens. They hold no secret: the digest and the sealed copy
//! stay in the store's rows.

use super::{AccountId, KeyId, Metadata, Networks, Reason, San, Scopes, SlotName, Timestamp};

/// The prefix and the first four characters of a key. It identifies the key without disclosing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint(pub String);

/// All data of a key except its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public id.
    pub id: KeyId,
    /// The account that owns the key.
    pub account: AccountId,
    /// The slot in the account. A slot has at most one key without a revoke time.
    pub name: SlotName,
    /// The hint by which people recognise the key.
    pub hint: Hint,
    /// The scopes of the key.
    pub scopes: Scopes,
    /// The owner's notes.
    pub metadata: Metadata,
    /// The networks from which the key may be used.
    pub networks: Networks,
    /// Whether the store keeps a sealed copy.
    pub recoverable: bool,
    /// Whether the key is disabled. It can be enabled again.
    pub disabled: bool,
    /// The time of creation.
    pub create_time: Timestamp,
    /// The time from which the key is expired.
    pub expire_time: Option<Timestamp>,
    /// The time from which the key is revoked. It is in the future during a grace.
    pub revoke_time: Option<Timestamp>,
    /// Whether the key is revoked, at any time. It implies `revoke_time`.
    pub revoked: bool,
    /// The reason that the revoker gave.
    pub revoke_reason: Option<Reason>,
    /// The successor.
    pub replaced_by: Option<KeyId>,
    /// The revision of the latest change; 0 if there was none.
    pub revision: u64,
}

impl KeyRecord {
    /// The size in memory, in bytes, approximately.
    pub fn size(&self) -> usize {
        let metadata = self.metadata.entries().iter();
        let metadata: usize = metadata.map(|(k, v)| k.len() + v.len()).sum();
        let texts = self.account.as_str().len() + self.name.as_str().len();
        size_of::<Self>() + texts + self.scopes.size() + metadata + self.networks.size()
    }
}

/// The state of a key at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key is alive.
    Active,
    /// The key is disabled.
    Disabled,
    /// The `expire_time` has passed.
    Expired,
    /// The key is revoked, or its `revoke_time` has passed.
    Revoked,
}

/// A caller's token, which authenticates the caller. Instead of a secret it can have a name, which a client
/// certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// The public id.
    pub id: KeyId,
    /// The caller's name. Several tokens may share one name.
    pub name: SlotName,
    /// The roles of the caller.
    pub roles: Roles,
    /// The name in the caller's certificate, instead of a secret.
    pub san: Option<San>,
    /// The time of creation.
    pub create_time: Timestamp,
    /// The time from which the token is expired.
    pub expire_time: Option<Timestamp>,
    /// The time from which the token is revoked.
    pub revoke_time: Option<Timestamp>,
    /// Whether the token is revoked, at any time. It implies `revoke_time`.
    pub revoked: bool,
    /// The revision of the latest change; 0 if there was none.
    pub revision: u64,
}

named! {
    /// A right of a caller. Stores, the CLI and errors use its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Role {
        /// Issue, Revoke.
        Issuer = "issuer",
        /// Verify, VerifyBatch.
        Verifier = "verifier",
        /// Reveal a recoverable key.
        Revealer = "revealer",
        /// Get, List.
        Reader = "reader",
        /// Update.
        Editor = "editor",
        /// Revoke by key text only, without the record in the response.
        Reporter = "reporter",
        /// AdminService, without the audit.
        Admin = "admin",
        /// ListAuditEvents, VerifyAudit.
        Auditor = "auditor",
        /// WatchInvalidations.
        NearCache = "near_cache",
    }
}

impl Role {
    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u16);

impl Roles {
    /// Every role. The first token of a deployment has them all.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether the set contains `role`.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles, in the order of `Role::ALL`.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| self.contains(*role))
    }

    /// The names joined by commas, as in a store.
    pub fn to_text(self) -> String {
        self.iter().map(Role::name).collect::<Vec<_>>().join(",")
    }

    /// The reverse of `to_text`; `None` if a name is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(Role::parse)
            .collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_parsed_from_their_text() {
        assert_eq!(Roles::parse(&Roles::all().to_text()), Some(Roles::all()));
        let two: Roles = [Role::Issuer, Role::Admin].into_iter().collect();
        assert_eq!(two.to_text(), "issuer,admin");
        assert!(two.contains(Role::Admin) && !two.contains(Role::Verifier));
        assert_eq!(Roles::parse("issuer,root"), None);
        assert_eq!(Roles::parse(""), Some(Roles::default()));
    }
}
