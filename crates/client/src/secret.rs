//! Text that must never be printed: an API key, or this client's own token.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A secret. It has no `Display`, its `Debug` is redacted, and its memory is wiped when it is
/// dropped. What the transport copies of it on the way out is beyond its reach.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for the one place that sends it or shows it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// In a time that tells nothing of the secret but its length.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_is_redacted() {
        let secret = Secret::new("kw_canary");
        assert_eq!(
            format!("{secret:?} {secret:#?}"),
            "Secret(redacted) Secret(redacted)"
        );
        assert_eq!(secret.expose(), "kw_canary");
    }

    #[test]
    fn equal_is_what_has_the_same_text() {
        let secret = Secret::new("kw_canary");
        assert_eq!(secret, Secret::new("kw_canary"));
        for other in ["", "kw_canar", "kw_canarz", "kw_canaryy"] {
            assert_ne!(secret, Secret::new(other));
        }
    }
}
