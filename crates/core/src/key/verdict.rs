//! What Verify says about a key.

/// The verdict on one key. Every value but `Valid` refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The key lives and may do what was asked.
    Valid,
    /// The tag is wrong, or no such key is stored.
    NotFound,
    /// The prefix, the base62 or the CRC is wrong: this was never one of our keys.
    Malformed,
    /// Revoked, at its `revoke_time`.
    Revoked,
    /// Past its `expire_time`.
    Expired,
    /// Switched off by an Update; can be switched on again.
    Disabled,
    /// Lives, but lacks a required scope.
    InsufficientScope,
    /// Lives, but not for this client address.
    IpNotAllowed,
}

impl Verdict {
    /// All verdicts, in the order of their index.
    pub const ALL: [Self; 8] = [
        Self::Valid,
        Self::NotFound,
        Self::Malformed,
        Self::Revoked,
        Self::Expired,
        Self::Disabled,
        Self::InsufficientScope,
        Self::IpNotAllowed,
    ];

    /// The name as it stands on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::NotFound => "NOT_FOUND",
            Self::Malformed => "MALFORMED",
            Self::Revoked => "REVOKED",
            Self::Expired => "EXPIRED",
            Self::Disabled => "DISABLED",
            Self::InsufficientScope => "INSUFFICIENT_SCOPE",
            Self::IpNotAllowed => "IP_NOT_ALLOWED",
        }
    }
}
