//! The text form of a key: `<prefix>_<43 base62><6 base62>`. The 43 characters encode 32 bytes: 24
//! random bytes and a keyed tag of 8 bytes. The last 6 characters are the CRC-32 of the text before
//! them. A scanner recognises a key offline by its CRC; only the keyring can check the tag.

use std::fmt;

/// Bytes of the body: random part and tag.
pub const BODY_LEN: usize = 32;
/// Random bytes of a key: 192 bits.
pub const RANDOM_LEN: usize = 24;
/// Bytes of the keyed tag.
pub const TAG_LEN: usize = 8;

/// The prefix of callers' tokens, which have the same text form. It distinguishes a leaked token
/// from a leaked key.
pub const TOKEN_PREFIX: &str = "kwt";

/// The longest prefix.
const MAX_PREFIX: usize = 16;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BODY_DIGITS: usize = 43;
const CRC_DIGITS: usize = 6;
/// 62^10, the largest power of 62 below 2^64. The code converts ten digits at a time.
const CHUNK: u64 = 839_299_365_868_340_224;
const CHUNK_DIGITS: usize = 10;

/// The part of a key before its last underscore. It names the kind of secret and the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// A text that cannot be a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a valid key prefix: use 1 to 16 characters, a-z and 0-9, in parts joined by single underscores"
)]
pub struct PrefixError(String);

impl Prefix {
    /// Accepts 1 to 16 lower-case letters and digits, in parts joined by single underscores. A
    /// double click then selects the whole key.
    pub fn new(text: &str) -> Result<Self, PrefixError> {
        let has_valid_parts = text.split('_').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
        if text.len() <= MAX_PREFIX && has_valid_parts {
            Ok(Self(text.to_owned()))
        } else {
            Err(PrefixError(text.to_owned()))
        }
    }

    /// The prefix without the underscore that follows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The 32 bytes of a key: random part and tag. They are as secret as the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(zeroize::Zeroizing<[u8; BODY_LEN]>);

impl Body {
    /// Joins the random part and the tag.
    pub fn new(random: &[u8; RANDOM_LEN], tag: &[u8; TAG_LEN]) -> Self {
        let mut bytes = zeroize::Zeroizing::new([0; BODY_LEN]);
        bytes[..RANDOM_LEN].copy_from_slice(random);
        bytes[RANDOM_LEN..].copy_from_slice(tag);
        Self(bytes)
    }

    /// The random part.
    pub fn random(&self) -> &[u8] {
        &self.0[..RANDOM_LEN]
    }

    /// The keyed tag.
    pub fn tag(&self) -> &[u8] {
        &self.0[RANDOM_LEN..]
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body(redacted)")
    }
}

/// Why a text is not the text form of a key. It contains no part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The underscore is missing, or the prefix is another one.
    #[error("it does not start with a key prefix of this service")]
    Prefix,
    /// The text is too short or too long.
    #[error("its length is wrong")]
    Length,
    /// A character is outside base62, or the digits encode more than 32 bytes.
    #[error("it contains a character that no key contains")]
    Digits,
    /// The checksum is wrong: the text was mistyped or altered.
    #[error("its checksum is wrong: it was mistyped or altered")]
    Checksum,
}

/// Reads and writes the text form.
#[derive(Debug)]
pub struct TextForm;

impl TextForm {
    /// Writes the text of a key.
    pub fn write(prefix: &Prefix, body: &Body) -> super::SecretText {
        let mut text = String::with_capacity(prefix.0.len() + 1 + BODY_DIGITS + CRC_DIGITS);
        text.push_str(&prefix.0);
        text.push('_');
        write_body(&body.0, &mut text);
        let crc = crc32fast::hash(text.as_bytes());
        push_digits(u64::from(crc), CRC_DIGITS, &mut text);
        super::SecretText::new(text)
    }

    /// Reads a text with one of `prefixes`, and returns the prefix and the body. The text is not
    /// trimmed.
    pub fn read<'p>(text: &str, prefixes: &'p [Prefix]) -> Result<(&'p Prefix, Body), Malformed> {
        let (before, digits) = text.rsplit_once('_').ok_or(Malformed::Prefix)?;
        let prefix = prefixes
            .iter()
            .find(|prefix| prefix.0 == before)
            .ok_or(Malformed::Prefix)?;
        if digits.len() != BODY_DIGITS + CRC_DIGITS {
            return Err(Malformed::Length);
        }
        let (body, crc) = digits.as_bytes().split_at(BODY_DIGITS);
        let stated = read_digits(crc)?;
        let covered = &text.as_bytes()[..text.len() - CRC_DIGITS];
        if stated != u64::from(crc32fast::hash(covered)) {
            return Err(Malformed::Checksum);
        }
        Ok((prefix, read_body(body)?))
    }

    /// Whether `text` has the form of a caller's token.
    pub fn is_token(text: &str) -> bool {
        Prefix::new(TOKEN_PREFIX).is_ok_and(|prefix| Self::read(text, &[prefix]).is_ok())
    }

    /// Whether `text` contains a key or token of any deployment: digits with the right checksum after
    /// an underscore. A text that is stored for others to read must not contain one.
    pub fn is_within(text: &str) -> bool {
        let bytes = text.as_bytes();
        text.match_indices('_').any(|(underscore, _)| {
            let crc = underscore + 1 + BODY_DIGITS;
            let end = crc + CRC_DIGITS;
            let digits = bytes.get(underscore + 1..end).unwrap_or_default();
            let are_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_alphanumeric);
            // Other text may precede the prefix, so each possible start is tried.
            let mut starts = underscore.saturating_sub(MAX_PREFIX)..underscore;
            are_digits
                && starts.any(|start| {
                    let stated = u64::from(crc32fast::hash(&bytes[start..crc]));
                    read_digits(&bytes[crc..end]) == Ok(stated)
                })
        })
    }

    /// The hint of a key: its prefix and first four characters.
    pub fn hint(text: &str) -> Option<&str> {
        let underscore = text.rfind('_')?;
        text.get(..underscore + 5)
    }
}

/// Appends `count` digits of `value`, the highest first.
fn push_digits(mut value: u64, count: usize, text: &mut String) {
    let mut digits = zeroize::Zeroizing::new([0; CHUNK_DIGITS]);
    for digit in digits[..count].iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(value % 62).unwrap_or(0)];
        value /= 62;
    }
    text.extend(digits[..count].iter().map(|b| char::from(*b)));
}

fn read_digits(digits: &[u8]) -> Result<u64, Malformed> {
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return Err(Malformed::Digits),
        };
        Ok(value * 62 + u64::from(digit))
    })
}

/// Writes 32 bytes as one big-endian number of 43 digits.
fn write_body(bytes: &[u8; BODY_LEN], text: &mut String) {
    let mut limbs = limbs_of(bytes);
    let mut chunks = zeroize::Zeroizing::new([0_u64; 5]);
    for chunk in chunks.iter_mut().rev() {
        let mut rest = 0_u128;
        for limb in limbs.iter_mut() {
            let value = (rest << 64) | u128::from(*limb);
            *limb = low_half(value / u128::from(CHUNK));
            rest = value % u128::from(CHUNK);
        }
        *chunk = low_half(rest);
    }
    push_digits(chunks[0], BODY_DIGITS - 4 * CHUNK_DIGITS, text);
    for chunk in &chunks[1..] {
        push_digits(*chunk, CHUNK_DIGITS, text);
    }
}

/// The reverse of `write_body`. It refuses a number of more than 32 bytes, so that each body has
/// exactly one text.
fn read_body(digits: &[u8]) -> Result<Body, Malformed> {
    let (first, rest) = digits.split_at(BODY_DIGITS - 4 * CHUNK_DIGITS);
    let mut limbs = zeroize::Zeroizing::new([0_u64; 4]);
    for chunk in std::iter::once(first).chain(rest.chunks(CHUNK_DIGITS)) {
        let mut carry = u128::from(read_digits(chunk)?);
        for limb in limbs.iter_mut().rev() {
            let value = u128::from(*limb) * u128::from(CHUNK) + carry;
            *limb = low_half(value);
            carry = value >> 64;
        }
        if carry != 0 {
            return Err(Malformed::Digits);
        }
    }
    let mut bytes = zeroize::Zeroizing::new([0; BODY_LEN]);
    for (slot, limb) in bytes.chunks_mut(8).zip(limbs.iter()) {
        slot.copy_from_slice(&limb.to_be_bytes());
    }
    Ok(Body(bytes))
}

fn limbs_of(bytes: &[u8; BODY_LEN]) -> zeroize::Zeroizing<[u64; 4]> {
    let mut limbs = zeroize::Zeroizing::new([0; 4]);
    for (limb, slot) in limbs.iter_mut().zip(bytes.chunks(8)) {
        *limb = slot
            .iter()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte));
    }
    limbs
}

/// The low 64 bits.
fn low_half(value: u128) -> u64 {
    let bytes = value.to_le_bytes();
    let mut low = [0; 8];
    low.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kw() -> Vec<Prefix> {
        vec![Prefix::new("kw").unwrap(), Prefix::new("kw_test").unwrap()]
    }

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; BODY_LEN], which in 0..2_usize) {
            let prefixes = kw();
            let body = Body(zeroize::Zeroizing::new(bytes));
            let text = TextForm::write(&prefixes[which], &body);
            prop_assert_eq!(text.expose().len(), prefixes[which].as_str().len() + 50);
            let (prefix, again) = TextForm::read(text.expose(), &prefixes).unwrap();
            prop_assert_eq!(prefix, &prefixes[which]);
            prop_assert!(again == body);
            for quoted in [text.expose().to_owned(), format!("see_x{}, or", text.expose())] {
                prop_assert!(TextForm::is_within(&quoted));
            }
        }

        #[test]
        fn a_changed_character_is_refused(bytes: [u8; BODY_LEN], at in 0..52_usize, with in "[ -~]") {
            let prefixes = kw();
            let text = TextForm::write(&prefixes[0], &Body(zeroize::Zeroizing::new(bytes)));
            let mut changed = text.expose().to_owned();
            changed.replace_range(at..=at, &with);
            prop_assume!(changed != text.expose());
            prop_assert!(TextForm::read(&changed, &prefixes).is_err());
            prop_assert!(!TextForm::is_within(&changed));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = TextForm::read(&text, &kw());
            let _ = TextForm::read(&format!("kw_{text}"), &kw());
            prop_assert!(!TextForm::is_within(&text));
        }
    }

    #[test]
    fn a_number_over_32_bytes_is_refused() {
        let mut text = format!("kw_{}", "z".repeat(BODY_DIGITS));
        push_digits(
            u64::from(crc32fast::hash(text.as_bytes())),
            CRC_DIGITS,
            &mut text,
        );
        assert_eq!(TextForm::read(&text, &kw()).unwrap_err(), Malformed::Digits);
    }

    #[test]
    fn the_lowest_and_highest_body_are_read_back() {
        for byte in [0, 0xff] {
            let body = Body(zeroize::Zeroizing::new([byte; BODY_LEN]));
            let text = TextForm::write(&kw()[0], &body);
            assert!(TextForm::read(text.expose(), &kw()).unwrap().1 == body);
        }
    }

    #[test]
    fn prefixes_are_checked() {
        for good in ["kw", "a", "acme_live", "k2"] {
            assert!(Prefix::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "KW",
            "a-b",
            "_a",
            "a_",
            "a__b",
            "sixteen_and_more_",
            "é",
        ] {
            assert!(Prefix::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hint_shows_four_characters() {
        assert_eq!(TextForm::hint("kw_abcdefgh"), Some("kw_abcd"));
        assert_eq!(TextForm::hint("none"), None);
    }
}
