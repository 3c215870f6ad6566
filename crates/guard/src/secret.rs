//! Secret text, which is never printed: an API key, or a caller's own token.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A secret. It has no `Display`, its `Debug` is redacted, and its memory is wiped on drop. This
/// does not cover the copies that the transport makes to send it.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret text. Call this only to send it, or to show it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the secret is `text`, in constant time: the time reveals only the length.
    pub fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

/// Compares in constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
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
    fn secrets_with_the_same_text_are_equal() {
        let secret = Secret::new("kw_canary");
        assert_eq!(secret, Secret::new("kw_canary"));
        for other in ["", "kw_canar", "kw_canarz", "kw_canaryy"] {
            assert_ne!(secret, Secret::new(other));
        }
    }
}
