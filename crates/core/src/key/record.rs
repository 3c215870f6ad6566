//! The records that a store holds: a key's and a caller's token's. They hold no secret: the
//! digest and the sealed copy stay in the store's own rows.

use super::{AccountId, KeyId, Metadata, Networks, Reason, Scopes, SlotName, Timestamp};

/// Prefix and first four characters of a key's text: names it without disclosing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint(pub String);

/// All that is known of a key, but nothing that would let one use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// Whose balance it can spend.
    pub account: AccountId,
    /// Its slot in the account: at most one key without revoke time for each.
    pub name: SlotName,
    /// How people name it.
    pub hint: Hint,
    /// What it may do.
    pub scopes: Scopes,
    /// The owner's notes.
    pub metadata: Metadata,
    /// From where it may be used; empty is anywhere.
    pub networks: Networks,
    /// Whether a sealed copy was kept at creation.
    pub recoverable: bool,
    /// Switched off for now.
    pub disabled: bool,
    /// When it was created.
    pub create_time: Timestamp,
    /// From when on it is expired.
    pub expire_time: Option<Timestamp>,
    /// From when on it is revoked; in the future during a grace.
    pub revoke_time: Option<Timestamp>,
    /// What the revoker gave as reason.
    pub revoke_reason: Option<Reason>,
    /// The key that was made in its stead.
    pub replaced_by: Option<KeyId>,
    /// The revision of its last change; 0 when it never changed.
    pub revision: u64,
}

/// Where a key stands at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Lives.
    Active,
    /// Switched off.
    Disabled,
    /// Past its `expire_time`.
    Expired,
    /// Past its `revoke_time`.
    Revoked,
}

/// A caller's token: who may call what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public name.
    pub id: KeyId,
    /// The caller's name; several tokens may share one.
    pub name: SlotName,
    /// What it may call.
    pub roles: Roles,
    /// When it was created.
    pub create_time: Timestamp,
    /// From when on it is dead.
    pub revoke_time: Option<Timestamp>,
    /// The revision of its last change; 0 when it never changed.
    pub revision: u64,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Issue, Revoke.
    Issuer,
    /// Verify, VerifyBatch.
    Verifier,
    /// See a recoverable secret again.
    Revealer,
    /// Get, List.
    Reader,
    /// Update.
    Editor,
    /// Revoke by key text only, and see nothing back.
    Reporter,
    /// AdminService.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 7] = [
        Self::Issuer,
        Self::Verifier,
        Self::Revealer,
        Self::Reader,
        Self::Editor,
        Self::Reporter,
        Self::Admin,
    ];

    /// The name used in stores, in the CLI and in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Verifier => "verifier",
            Self::Revealer => "revealer",
            Self::Reader => "reader",
            Self::Editor => "editor",
            Self::Reporter => "reporter",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Every role: what the first token of a deployment holds.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether `role` is among them.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles, in the order of `Role::ALL`.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL
            .into_iter()
            .filter(move |role| self.contains(*role))
    }

    /// The names joined by commas: how a store holds a set.
    pub fn to_text(self) -> String {
        self.iter().map(Role::name).collect::<Vec<_>>().join(",")
    }

    /// The reverse of `to_text`; `None` when a name is unknown.
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
    fn roles_survive_their_text() {
        assert_eq!(Roles::parse(&Roles::all().to_text()), Some(Roles::all()));
        let two: Roles = [Role::Issuer, Role::Admin].into_iter().collect();
        assert_eq!(two.to_text(), "issuer,admin");
        assert!(two.contains(Role::Admin) && !two.contains(Role::Verifier));
        assert_eq!(Roles::parse("issuer,root"), None);
        assert_eq!(Roles::parse(""), Some(Roles::default()));
    }
}
