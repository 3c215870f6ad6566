//! The formats of foreign keys, as an operator names them. A text that has one of them is looked up; any
//! other text is refused without I/O. A format has at least 96 bits, so nobody can guess a key.

use std::fmt;

/// The built-in format: a random UUID as text.
const UUID: &str = "uuid";
/// The fewest bits of a format.
const MIN_BITS: u32 = 96;
/// The most characters after the prefix.
const MAX_LENGTH: usize = 256;
const MAX_NAME: usize = 32;
const MAX_PREFIX: usize = 64;

/// A format of foreign keys: `uuid`, or `NAME:PREFIX:ALPHABET:LENGTH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignFormat {
    name: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// A UUID of version 4: 36 characters, with hexadecimal digits of either case.
    Uuid,
    /// A prefix, then so many characters of an alphabet.
    Text {
        prefix: String,
        alphabet: Alphabet,
        length: usize,
    },
}

named! {
    /// The characters after the prefix.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Alphabet {
        Digits = "digits",
        Hex = "hex",
        Base32 = "base32",
        Base58 = "base58",
        Base62 = "base62",
        Base64Url = "base64url",
    }
}

impl Alphabet {
    /// The number of values of a character.
    const fn size(self) -> u128 {
        match self {
            Self::Digits => 10,
            Self::Hex => 16,
            Self::Base32 => 32,
            Self::Base58 => 58,
            Self::Base62 => 62,
            Self::Base64Url => 64,
        }
    }

    /// Products write hexadecimal digits and base32 in either case.
    fn contains(self, byte: u8) -> bool {
        match self {
            Self::Digits => byte.is_ascii_digit(),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Base32 => byte.is_ascii_alphabetic() || matches!(byte, b'2'..=b'7'),
            Self::Base58 => {
                byte.is_ascii_alphanumeric() && !matches!(byte, b'0' | b'O' | b'I' | b'l')
            }
            Self::Base62 => byte.is_ascii_alphanumeric(),
            Self::Base64Url => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        }
    }
}

impl ForeignFormat {
    /// Parses a format. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == UUID {
            return Ok(Self {
                name: UUID.to_owned(),
                form: Form::Uuid,
            });
        }
        let mut parts = text.split(':');
        let (Some(name), Some(prefix), Some(alphabet), Some(length), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(format!(
                "'{text}' is no format: write `uuid`, or NAME:PREFIX:ALPHABET:LENGTH, where PREFIX may be empty"
            ));
        };
        let in_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(in_name) || name == UUID {
            return Err(format!(
                "'{name}' can't name a format: use 1 to {MAX_NAME} of a-z, 0-9 and hyphens, but not `uuid`"
            ));
        }
        let name = name.to_owned();
        let in_prefix = |b: u8| b.is_ascii_graphic() && b != b',';
        if prefix.len() > MAX_PREFIX || !prefix.bytes().all(in_prefix) {
            return Err(format!(
                "format {name}: the prefix takes at most {MAX_PREFIX} printable ASCII characters without spaces, commas and colons"
            ));
        }
        let Some(alphabet) = Alphabet::parse(alphabet) else {
            return Err(format!(
                "format {name}: the alphabet is one of digits, hex, base32, base58, base62 and base64url"
            ));
        };
        let length = match length.parse() {
            Ok(length @ 1..=MAX_LENGTH) => length,
            _ => {
                return Err(format!(
                    "format {name}: the length is the number of characters after the prefix, 1 to {MAX_LENGTH}"
                ));
            }
        };
        let values = u32::try_from(length).map(|length| alphabet.size().checked_pow(length));
        // A number of values above 128 bits is large enough.
        if values.is_ok_and(|values| values.is_some_and(|values| values < 1 << MIN_BITS)) {
            let alphabet = alphabet.name();
            return Err(format!(
                "format {name}: {length} characters of {alphabet} have fewer than {MIN_BITS} bits, so its keys could be guessed"
            ));
        }
        let prefix = prefix.to_owned();
        Ok(Self {
            name,
            form: Form::Text {
                prefix,
                alphabet,
                length,
            },
        })
    }

    /// The name by which an operator refers to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `text` has this format.
    pub fn matches(&self, text: &str) -> bool {
        match &self.form {
            Form::Uuid => is_uuid(text.as_bytes()),
            Form::Text {
                prefix,
                alphabet,
                length,
            } => text.strip_prefix(prefix.as_str()).is_some_and(|rest| {
                rest.len() == *length && rest.bytes().all(|byte| alphabet.contains(byte))
            }),
        }
    }

    /// The part of a text of this format by which people recognise it: the prefix and four characters.
    pub fn hint<'t>(&self, text: &'t str) -> &'t str {
        let prefix = match &self.form {
            Form::Uuid => 0,
            Form::Text { prefix, .. } => prefix.len(),
        };
        text.get(..prefix + 4).unwrap_or(text)
    }

    /// Whether a text of this format can start with `start`.
    pub fn can_start_with(&self, start: &str) -> bool {
        match &self.form {
            Form::Uuid => start.bytes().all(|byte| Alphabet::Hex.contains(byte)),
            Form::Text {
                prefix, alphabet, ..
            } => match start.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.bytes().all(|byte| alphabet.contains(byte)),
                None => prefix.starts_with(start),
            },
        }
    }
}

/// The form that is parsed.
impl fmt::Display for ForeignFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Uuid => f.write_str(UUID),
            Form::Text {
                prefix,
                alphabet,
                length,
            } => write!(f, "{}:{prefix}:{}:{length}", self.name, alphabet.name()),
        }
    }
}

/// Whether `text` is a UUID of version 4 in the variant of RFC 9562.
fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'4',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";

    fn format(text: &str) -> ForeignFormat {
        ForeignFormat::parse(text).unwrap()
    }

    #[test]
    fn a_uuid_has_version_4_and_the_variant_of_the_rfc() {
        let uuid = format("uuid");
        assert!(uuid.matches(TEXT) && uuid.matches(&TEXT.to_uppercase()));
        for (place, byte) in [
            (14, "1"),
            (14, "7"),
            (19, "7"),
            (19, "c"),
            (8, "a"),
            (0, "g"),
        ] {
            let mut text = TEXT.to_owned();
            text.replace_range(place..=place, byte);
            assert!(!uuid.matches(&text), "{text}");
        }
        for wrong in [
            "",
            &TEXT[1..],
            &format!("{TEXT} "),
            &format!("{{{TEXT}}}"),
            &TEXT.replace('-', ""),
            &TEXT.replacen("2e", "é", 1),
        ] {
            assert!(!uuid.matches(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_format_takes_its_prefix_its_alphabet_and_its_length() {
        let long = "A".repeat(256);
        for (text, good, wrong) in [
            ("n::digits:29", "0".repeat(29), "a"),
            (
                "n:sk_live_:hex:24",
                format!("sk_live_{}", "aF".repeat(12)),
                "g",
            ),
            ("n:x:base32:20", format!("x{}", "aZ2347abcd".repeat(2)), "1"),
            ("n:x-:base58:17", format!("x-{}", "z".repeat(17)), "l"),
            ("n:%:base62:17", format!("%{}", "0".repeat(17)), "-"),
            ("n:K:base64url:256", format!("K{long}"), "+"),
        ] {
            let format = format(text);
            assert_eq!(format.to_string(), text);
            assert!(format.matches(&good), "{text}");
            let cut = &good[..good.len() - 1];
            for wrong in [
                cut,
                &format!("{cut}{wrong}"),
                &format!("{good}0"),
                &format!("y{good}"),
            ] {
                assert!(!format.matches(wrong), "{text} takes {wrong}");
            }
        }
    }

    #[test]
    fn each_fault_of_a_format_has_its_message() {
        for (text, message) in [
            ("UUID", "'UUID' is no format: write `uuid`"),
            ("n:hex:32", "'n:hex:32' is no format"),
            ("n::hex:32:", "'n::hex:32:' is no format"),
            (":p:hex:32", "'' can't name a format"),
            ("A:p:hex:32", "'A' can't name a format"),
            ("uuid::hex:32", "'uuid' can't name a format"),
            ("n:a b:hex:32", "format n: the prefix takes"),
            ("n:é:hex:32", "format n: the prefix takes"),
            ("n::base16:32", "format n: the alphabet is one of"),
            ("n::hex:", "format n: the length is"),
            ("n::hex:0", "format n: the length is"),
            ("n::hex:-1", "format n: the length is"),
            ("n::hex:257", "format n: the length is"),
            (
                "n::digits:28",
                "28 characters of digits have fewer than 96 bits",
            ),
            ("n::hex:23", "fewer than 96 bits"),
            ("n::base32:19", "fewer than 96 bits"),
            ("n::base58:16", "fewer than 96 bits"),
            ("n::base62:16", "fewer than 96 bits"),
            ("n::base64url:15", "fewer than 96 bits"),
        ] {
            let error = ForeignFormat::parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        for smallest in ["n::hex:24", "n::base32:20", "n::base64url:16"] {
            format(smallest);
        }
    }

    #[test]
    fn an_overlap_with_a_start_is_seen() {
        for (text, start, overlaps) in [
            ("uuid", "kw_", false),
            ("uuid", "ab", true),
            ("n::base64url:32", "kw_", true),
            ("n:k:base64url:32", "kw_", true),
            ("n:kw:base64url:32", "kw_", true),
            ("n:kw_:hex:32", "kw_", true),
            ("n:kw_live_:hex:32", "kw_", true),
            ("n:kwt:hex:32", "kw_", false),
            ("n:kw:base62:32", "kw_", false),
            ("n:kw-:base64url:32", "kw_", false),
            ("n::base62:32", "kw_", false),
        ] {
            assert_eq!(
                format(text).can_start_with(start),
                overlaps,
                "{text} {start}"
            );
        }
    }

    proptest! {
        /// The parser takes what the display shows, and only printable ASCII matches.
        #[test]
        fn any_text_is_parsed_or_refused(text in "[ -~é]{0,40}|n:[a-z_,]{0,3}:(hex|base62):[0-9]{1,3}", key in "\\PC{0,40}") {
            if let Ok(format) = ForeignFormat::parse(&text) {
                prop_assert_eq!(ForeignFormat::parse(&format.to_string()), Ok(format.clone()));
                prop_assert!(!format.matches(&key) || key.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
