//! The text form of keys: a text has one body, and a body one text. Nothing that the keyring did not
//! mint has its tag. No key of our own has the format of a foreign one.

use std::sync::Arc;

use keyward::system::SystemEntropy;
use keyward_core::key::{Body, ForeignFormat, KeyId, Prefix, RANDOM_LEN, TAG_LEN, TextForm};
use keyward_crypto::{Active, GenerationKeys, Keyring, KeyringMaterial, SecretKey};

use crate::Target;

/// The input is a text; or the 43 digits of a body, to which the target adds prefix and checksum; or
/// the 32 bytes of a body.
pub fn target() -> Target {
    let prefixes = ["kw", "kw_test", "a1"].map(|text| Prefix::new(text).expect("it is a prefix"));
    let keyring = keyring();
    let formats = ["uuid", "a:sk_live_:base58:17", "b::hex:32"];
    let formats = formats.map(|text| ForeignFormat::parse(text).expect("it is a format"));
    Box::new(move |data| {
        let text = String::from_utf8_lossy(data);
        for format in &formats {
            assert!(
                !format.matches(&text) || TextForm::read(&text, &prefixes).is_err(),
                "a foreign key that is one of our own"
            );
        }
        if let Ok(format) = ForeignFormat::parse(&text) {
            assert!(
                ForeignFormat::parse(&format.to_string()) == Ok(format),
                "two formats of one text"
            );
        }
        read(&text, &prefixes, &keyring);
        read(&with_checksum(&format!("kw_{text}")), &prefixes, &keyring);
        for prefix in &prefixes {
            // Prefixes come from settings.
            assert!(Prefix::new(prefix.as_str()).as_ref() == Ok(prefix));
            if let Some((random, rest)) = data.split_first_chunk::<RANDOM_LEN>()
                && let Some((tag, _)) = rest.split_first_chunk::<TAG_LEN>()
            {
                let body = Body::new(random, tag);
                let text = TextForm::write(prefix, &body);
                let again = TextForm::read(text.expose(), &prefixes).expect("it was written");
                assert!(again == (prefix, body), "another body");
            }
            let minted = keyring.mint(prefix, &SystemEntropy);
            let (_, body) = TextForm::read(minted.text.expose(), &prefixes).expect("it is a key");
            let found = keyring.digest_of(prefix, &body, minted.text.expose());
            assert!(found == Some((minted.digest, 1)), "a minted key is its own");
        }
        if let Ok(prefix) = Prefix::new(&text) {
            assert_eq!(prefix.as_str(), text);
        }
        if let Some(id) = KeyId::parse(&text) {
            assert!(id.to_string().eq_ignore_ascii_case(&text));
        }
    })
}

fn read(text: &str, prefixes: &[Prefix], keyring: &Keyring) {
    if let Some(hint) = TextForm::hint(text) {
        assert!(text.starts_with(hint));
    }
    let Ok((prefix, body)) = TextForm::read(text, prefixes) else {
        return;
    };
    let again = TextForm::write(prefix, &body);
    assert!(again.expose() == text, "two texts of one body");
    assert!(keyring.digest_of(prefix, &body, text).is_none(), "invented");
}

/// The text with the checksum of a key at its end.
pub(crate) fn with_checksum(text: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = ['0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = char::from(DIGITS[rest as usize % 62]);
        rest /= 62;
    }
    text.chars().chain(digits).collect()
}

/// A keyring that is the same in every run, so that a found input stays one.
pub(crate) fn keyring() -> Arc<Keyring> {
    let secret = |byte: u8| SecretKey::new(&[byte; 32]);
    let generation = GenerationKeys {
        tag_key: secret(1),
        pepper: secret(2),
    };
    let material = KeyringMaterial {
        generations: [(1, generation)].into(),
        seals: [(1, secret(3))].into(),
        caches: [(1, secret(4))].into(),
        ..KeyringMaterial::default()
    };
    Arc::new(Keyring::new(&material, Active::default()).expect("it is complete"))
}
