//! The public id of a key or of a caller's token, and that of an import.

use super::{Entropy, Timestamp};

uuid_type! {
    /// A UUIDv7: unique, ordered by creation time to the millisecond, and not secret.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    KeyId
}

impl KeyId {
    /// The id under which the log names an import. No key has it. It is a change of all keys that were
    /// not known before: an answer that a key does not exist is outdated by it.
    pub const IMPORTS: Self = Self(uuid::Uuid::nil());

    /// Draws a new id for a key or token created at `now`.
    pub fn draw(now: Timestamp, entropy: &dyn Entropy) -> Self {
        let mut random = [0; 10];
        entropy.fill(&mut random);
        Self(uuid::Builder::from_unix_timestamp_millis(now.as_millis(), &random).into_uuid())
    }

    /// Parses the hyphenated text form; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return None;
        }
        uuid::Uuid::try_parse(text).ok().map(Self)
    }
}

uuid_type! {
    /// A UUID that names the keys of one import. Its caller chooses it.
    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    BatchId
}

impl BatchId {
    /// Parses the hyphenated text form; `None` for any other text, and for the UUID of all zeros, which a
    /// caller may send by mistake.
    pub fn parse(text: &str) -> Option<Self> {
        let id = KeyId::parse(text).filter(|id| *id != KeyId::IMPORTS)?;
        Some(Self(id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(self.0);
        }
    }

    #[test]
    fn ids_are_version_7_and_sort_by_creation() {
        let early = KeyId::draw(Timestamp::from_micros(1_000_000), &Fixed(0xff));
        let late = KeyId::draw(Timestamp::from_micros(1_001_000), &Fixed(0));
        assert!(early < late);
        assert_eq!(early.to_string().as_bytes()[14], b'7');
        assert_eq!(KeyId::parse(&early.to_string()), Some(early));
    }

    #[test]
    fn only_the_hyphenated_form_is_parsed() {
        for wrong in [
            "",
            "x",
            "00000000000070008000000000000000",
            "{00000000-0000-7000-8000-000000000000}",
        ] {
            assert_eq!(KeyId::parse(wrong), None, "{wrong}");
        }
    }
}
