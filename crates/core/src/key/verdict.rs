//! The verdict of Verify.

named! {
    /// The verdict on one key. Every value except `Valid` refuses the key. Metrics use its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Verdict {
        /// The key is alive and meets the requirements of the call.
        Valid = "VALID",
        /// The tag is wrong, or the store has no such key.
        NotFound = "NOT_FOUND",
        /// The prefix, the base62 or the CRC is wrong: the text was never a key of this service.
        Malformed = "MALFORMED",
        /// The `revoke_time` has passed.
        Revoked = "REVOKED",
        /// The `expire_time` has passed.
        Expired = "EXPIRED",
        /// Disabled by an Update. Another Update can enable the key.
        Disabled = "DISABLED",
        /// The key is alive but lacks a required scope.
        InsufficientScope = "INSUFFICIENT_SCOPE",
        /// The key is alive but not allowed for this client address.
        IpNotAllowed = "IP_NOT_ALLOWED",
    }
}
