//! Text that must never be printed: API keys and the token of the bot.

use std::fmt;

use zeroize::Zeroizing;

/// A secret. It has no `Display`, its `Debug` is redacted, and its memory is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes ownership of a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself: for the message to its owner, and for what authenticates with it.
    pub fn expose(&self) -> &str {
        &self.0
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
