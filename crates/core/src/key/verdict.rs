//! The verdict of Verify.

/// The verdict on one key. Every value except `Valid` refuses the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The key is alive and meets the requirements of the call.
    Valid,
    /// The tag is wrong, or the store has no such key.
    NotFound,
    /// The prefix, the base62 or the CRC is wrong: the text was never a key of this service.
    Malformed,
    /// The `revoke_time` has passed.
    Revoked,
    /// The `expire_time` has passed.
    Expired,
    /// Disabled by an Update. Another Update can enable the key.
    Disabled,
    /// The key is alive but lacks a required scope.
    InsufficientScope,
    /// The key is alive but not allowed for this client address.
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

    /// The name on the wire and in metrics.
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
