//! The published test vectors of the text form (`tests/vectors/keys.json`) against the code, in
//! both directions, and against an independent reader in Python. `UPDATE_VECTORS=1 cargo test
//! --test api vectors` rewrites the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use keyward_core::key::{Body, Entropy, Malformed, Prefix, RANDOM_LEN, TAG_LEN, TextForm};
use keyward_crypto::{GenerationKeys, Keyring, KeyringMaterial, SecretKey};
use serde::{Deserialize, Serialize};

const ABOUT: &str = "Test vectors of Keyward keys. A key is <prefix>_<43 base62><6 base62>, digits 0-9A-Za-z, highest first: \
    43 for random (24 bytes) and tag (8), 6 for the CRC-32 of all that stands before. \
    tag = first 8 bytes of HMAC-SHA256(tag_key, prefix + '_' + random); digest = HMAC-SHA256(pepper, text). \
    Checked in this order: prefix, length, digits of the CRC, checksum, digits of the body (below 2^256), tag. \
    The secrets here are for tests only.";

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Vectors {
    about: String,
    scanner_regex: String,
    prefixes: Vec<String>,
    generations: Vec<Generation>,
    good: Vec<Good>,
    broken: Vec<Broken>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Generation {
    number: u32,
    tag_key: String,
    pepper: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Good {
    text: String,
    prefix: String,
    random: String,
    tag: String,
    crc32: String,
    generation: u32,
    digest: String,
    hint: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Broken {
    text: String,
    outcome: String,
    reason: String,
    note: String,
}

static VECTORS: LazyLock<Vectors> = LazyLock::new(|| {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&fresh()).unwrap() + "\n";
        std::fs::write(path("keys.json"), text).unwrap();
    }
    serde_json::from_str(&std::fs::read_to_string(path("keys.json")).unwrap()).unwrap()
});

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

struct Fixed([u8; RANDOM_LEN]);

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

fn unhex<const N: usize>(digits: &str) -> [u8; N] {
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn keyring(generations: &[Generation], active: Option<u32>) -> Keyring {
    let keys = |generation: &Generation| GenerationKeys {
        tag_key: SecretKey::new(&unhex(&generation.tag_key)),
        pepper: SecretKey::new(&unhex(&generation.pepper)),
    };
    let material = KeyringMaterial {
        generations: generations
            .iter()
            .map(|each| (each.number, keys(each)))
            .collect(),
        seals: [(1, SecretKey::new(&[9; 32]))].into(),
        caches: BTreeMap::new(),
    };
    Keyring::new(&material, active).unwrap()
}

fn prefixes(names: &[String]) -> Vec<Prefix> {
    names
        .iter()
        .map(|name| Prefix::new(name).unwrap())
        .collect()
}

fn counting<const N: usize>(mut from: u8, step: u8) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.fill_with(|| {
        from = from.wrapping_add(step);
        from
    });
    bytes
}

fn generation(number: u32, first: u8) -> Generation {
    let (tag_key, pepper) = (counting::<32>(first, 1), counting::<32>(first, 3));
    Generation {
        number,
        tag_key: hex::encode(tag_key),
        pepper: hex::encode(pepper),
    }
}

fn good(generations: &[Generation], active: u32, prefix: &str, random: [u8; RANDOM_LEN]) -> Good {
    let prefix = Prefix::new(prefix).unwrap();
    let minted = keyring(generations, Some(active)).mint(&prefix, &Fixed(random));
    let text = minted.text.expose().to_owned();
    let (_, body) = TextForm::read(&text, std::slice::from_ref(&prefix)).unwrap();
    Good {
        prefix: prefix.as_str().to_owned(),
        random: hex::encode(body.random()),
        tag: hex::encode(body.tag()),
        crc32: format!(
            "{:08x}",
            crc32fast::hash(&text.as_bytes()[..text.len() - 6])
        ),
        generation: minted.generation,
        digest: hex::encode(minted.digest.as_bytes()),
        hint: minted.hint.0,
        text,
    }
}

/// Appends the checksum that fits.
fn with_crc(before: &str) -> String {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let crc = crc32fast::hash(before.as_bytes());
    let crc = (0..6)
        .rev()
        .map(|place| char::from(digits[(crc / 62_u32.pow(place).max(1) % 62) as usize]));
    before.chars().chain(crc).collect()
}

/// The vectors as the code of today gives them.
fn fresh() -> Vectors {
    let generations = vec![generation(1, 0), generation(2, 128)];
    let good: Vec<_> = [
        (2, "kw", counting(0xff, 1)),
        (2, "kw", [0; RANDOM_LEN]),
        (2, "kw", [0xff; RANDOM_LEN]),
        (1, "kw", counting(0xff, 1)),
        (1, "kw", counting(1, 37)),
        (2, "kw", counting(2, 83)),
        (2, "kwt", counting(0xff, 1)),
        (1, "kwt", counting(3, 151)),
        (2, "acme_live", counting(4, 211)),
    ]
    .map(|(number, prefix, random)| good(&generations, number, prefix, random))
    .into();
    Vectors {
        about: ABOUT.to_owned(),
        scanner_regex: r"\bkw_[0-9A-Za-z]{49}\b".to_owned(),
        prefixes: ["kw", "kwt", "acme_live"].map(str::to_owned).into(),
        broken: broken(&good[0]),
        generations,
        good,
    }
}

fn broken(good: &Good) -> Vec<Broken> {
    let text = good.text.as_str();
    let (digits, body) = (&text[3..], &text[..46]);
    let kw = Prefix::new("kw").unwrap();
    let (_, whole) = TextForm::read(text, std::slice::from_ref(&kw)).unwrap();
    let (random, tag): ([u8; RANDOM_LEN], [u8; TAG_LEN]) = (unhex(&good.random), unhex(&good.tag));
    let written = |prefix: &str, body: &Body| {
        TextForm::write(&Prefix::new(prefix).unwrap(), body).into_exposed()
    };
    let (mut other_random, mut other_tag) = (random, tag);
    other_random[0] ^= 1;
    other_tag[TAG_LEN - 1] ^= 1;
    let foreign = keyring(&[generation(2, 64)], None).mint(&kw, &Fixed(random));
    let last = if text.ends_with('0') { "1" } else { "0" };
    [
        ("prefix", "empty", String::new()),
        ("prefix", "no underscore", format!("kw{digits}")),
        ("prefix", "no prefix", digits.to_owned()),
        ("prefix", "empty prefix", format!("_{digits}")),
        (
            "prefix",
            "unknown prefix, checksum fits",
            written("kwx", &whole),
        ),
        ("prefix", "upper case", format!("KW_{digits}")),
        ("prefix", "space before", format!(" {text}")),
        ("prefix", "hyphen for underscore", format!("kw-{digits}")),
        ("length", "prefix alone", "kw_".to_owned()),
        ("length", "hint alone", good.hint.clone()),
        (
            "length",
            "one character short",
            text[..text.len() - 1].to_owned(),
        ),
        ("length", "one character long", format!("{text}0")),
        ("length", "newline after", format!("{text}\n")),
        (
            "digits",
            "a hyphen in the checksum",
            format!("{}-", &text[..text.len() - 1]),
        ),
        (
            "digits",
            "a hyphen in the body, checksum fits",
            with_crc(&format!("{}-", &body[..45])),
        ),
        (
            "digits",
            "not ASCII in the body, checksum fits",
            with_crc(&format!("{}é", &body[..44])),
        ),
        (
            "digits",
            "a number of more than 32 bytes, checksum fits",
            with_crc(&format!("kw_{}", "z".repeat(43))),
        ),
        (
            "checksum",
            "last character changed",
            format!("{}{last}", &text[..text.len() - 1]),
        ),
        (
            "checksum",
            "first character changed",
            format!("kw_z{}", &text[4..]),
        ),
        (
            "checksum",
            "case of the body changed",
            format!("{}{}", body.to_lowercase(), &text[46..]),
        ),
        (
            "checksum",
            "a checksum above 32 bits",
            format!("{body}zzzzzz"),
        ),
        (
            "checksum",
            "the checksum of another prefix",
            format!("kwt_{digits}"),
        ),
        (
            "tag",
            "random part changed, checksum fits",
            written("kw", &Body::new(&other_random, &tag)),
        ),
        (
            "tag",
            "tag changed, checksum fits",
            written("kw", &Body::new(&random, &other_tag)),
        ),
        (
            "tag",
            "no tag, checksum fits",
            written("kw", &Body::new(&random, &[0; TAG_LEN])),
        ),
        (
            "tag",
            "another prefix of the service, checksum fits",
            written("kwt", &whole),
        ),
        (
            "tag",
            "minted under another keyring",
            foreign.text.into_exposed(),
        ),
    ]
    .map(|(reason, note, text)| Broken {
        text,
        outcome: if reason == "tag" {
            "NOT_FOUND"
        } else {
            "MALFORMED"
        }
        .to_owned(),
        reason: reason.to_owned(),
        note: note.to_owned(),
    })
    .into()
}

#[test]
fn the_code_still_gives_these_vectors() {
    assert!(
        *VECTORS == fresh(),
        "the text form changed: keys that were handed out would die"
    );
}

#[test]
fn good_keys_are_read_and_found() {
    let vectors = &*VECTORS;
    let (prefixes, keyring) = (
        prefixes(&vectors.prefixes),
        keyring(&vectors.generations, None),
    );
    for good in &vectors.good {
        let (prefix, body) = TextForm::read(&good.text, &prefixes).unwrap();
        assert_eq!(prefix.as_str(), good.prefix);
        assert_eq!(hex::encode(body.random()), good.random);
        assert_eq!(hex::encode(body.tag()), good.tag);
        let (digest, generation) = keyring.digest_of(prefix, &body, &good.text).unwrap();
        assert_eq!(
            (hex::encode(digest.as_bytes()), generation),
            (good.digest.clone(), good.generation)
        );
        assert_eq!(TextForm::hint(&good.text), Some(good.hint.as_str()));
        let again = Body::new(&unhex(&good.random), &unhex(&good.tag));
        assert_eq!(TextForm::write(prefix, &again).expose(), good.text);
    }
}

#[test]
fn broken_keys_are_refused_for_their_reason() {
    let vectors = &*VECTORS;
    let (prefixes, keyring) = (
        prefixes(&vectors.prefixes),
        keyring(&vectors.generations, None),
    );
    for broken in &vectors.broken {
        let found = match TextForm::read(&broken.text, &prefixes) {
            Err(Malformed::Prefix) => ("MALFORMED", "prefix"),
            Err(Malformed::Length) => ("MALFORMED", "length"),
            Err(Malformed::Digits) => ("MALFORMED", "digits"),
            Err(Malformed::Checksum) => ("MALFORMED", "checksum"),
            Ok((prefix, body)) => {
                assert_eq!(
                    keyring.digest_of(prefix, &body, &broken.text),
                    None,
                    "{}",
                    broken.note
                );
                ("NOT_FOUND", "tag")
            }
        };
        assert_eq!(
            found,
            (broken.outcome.as_str(), broken.reason.as_str()),
            "{}",
            broken.note
        );
    }
}

#[test]
fn a_scanner_finds_every_key_in_text() {
    let vectors = &*VECTORS;
    let scanner = regex::Regex::new(&vectors.scanner_regex).unwrap();
    let keys = vectors.good.iter().filter(|good| good.prefix == "kw");
    assert!(keys.clone().count() >= 5);
    for good in keys {
        let text = &good.text;
        for around in [
            text.clone(),
            format!("apikey: \"{text}\""),
            format!("x={text}&y"),
            format!("({text}),\n"),
        ] {
            assert_eq!(
                scanner.find(&around).map(|found| found.as_str()),
                Some(text.as_str()),
                "{around}"
            );
        }
        for no_key in [format!("a{text}"), format!("{text}0"), format!("x_{text}")] {
            assert!(!scanner.is_match(&no_key), "{no_key}");
        }
    }
}

#[test]
fn an_independent_reading_agrees() {
    LazyLock::force(&VECTORS);
    let check = |vectors: &Path| {
        Command::new("python3")
            .arg(path("check.py"))
            .arg(vectors)
            .output()
            .expect("this test needs python3 (3.8 or later) in the PATH")
    };
    let output = check(&path("keys.json"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    // And it does check: one wrong digit anywhere is noticed.
    let home = tempfile::tempdir().unwrap();
    let altered = home.path().join("keys.json");
    let text = std::fs::read_to_string(path("keys.json")).unwrap();
    for field in [
        &VECTORS.good[0].digest,
        &VECTORS.good[0].tag,
        &VECTORS.good[0].crc32,
        &VECTORS.good[0].random,
    ] {
        let (first, rest) = field.split_at(1);
        let wrong = format!("{}{rest}", if first == "f" { "e" } else { "f" });
        std::fs::write(&altered, text.replacen(field.as_str(), &wrong, 1)).unwrap();
        assert!(!check(&altered).status.success(), "{field}");
    }
}
