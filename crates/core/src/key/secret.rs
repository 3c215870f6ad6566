//! Secret text that must never be printed.

use std::fmt;

use zeroize::Zeroizing;

/// The text of a key or of a caller's token. It has no `Display`, its `Debug` is redacted, and its
/// memory is wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret, for digests, seals and the response that returns it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Moves the secret into the response that returns it to its owner.
    pub fn into_exposed(mut self) -> String {
        std::mem::take(&mut *self.0)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::SecretText;

    #[test]
    fn debug_is_redacted() {
        let secret = SecretText::new("kw_canary".to_owned());
        assert_eq!(format!("{secret:?}"), "SecretText(redacted)");
    }
}
