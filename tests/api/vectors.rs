//! The published test vectors of the text form (`tests/vectors/keys.json`) against the code, in
//! both directions, and against an independent reader in Python.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use keyward_core::key::{Body, Entropy, Malformed, Prefix, RANDOM_LEN, TextForm};
use keyward_crypto::{Active, GenerationKeys, Keyring, KeyringMaterial, SecretKey};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vectors {
    scanner_regex: String,
    prefixes: Vec<String>,
    generations: Vec<Generation>,
    good: Vec<Good>,
    broken: Vec<Broken>,
}

#[derive(Deserialize)]
struct Generation {
    number: u32,
    tag_key: String,
    pepper: String,
}

#[derive(Deserialize)]
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

#[derive(Deserialize)]
struct Broken {
    text: String,
    outcome: String,
    reason: String,
    note: String,
}

static VECTORS: LazyLock<Vectors> = LazyLock::new(|| {
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

fn keyring(generations: &[Generation], generation: Option<u32>) -> Keyring {
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
        ..KeyringMaterial::default()
    };
    let active = Active {
        generation,
        ..Active::default()
    };
    Keyring::new(&material, active).unwrap()
}

fn prefixes(names: &[String]) -> Vec<Prefix> {
    names
        .iter()
        .map(|name| Prefix::new(name).unwrap())
        .collect()
}

/// A key that was handed out is minted again from the same random bytes.
#[test]
fn the_code_still_gives_these_vectors() {
    for good in &VECTORS.good {
        let prefix = Prefix::new(&good.prefix).unwrap();
        let keyring = keyring(&VECTORS.generations, Some(good.generation));
        let minted = keyring.mint(&prefix, &Fixed(unhex(&good.random)));
        let text = minted.text.expose();
        let crc = crc32fast::hash(&text.as_bytes()[..text.len() - 6]);
        assert_eq!(text, good.text);
        assert_eq!(format!("{crc:08x}"), good.crc32);
        assert_eq!(hex::encode(minted.digest.as_bytes()), good.digest);
        assert_eq!(
            (minted.generation, &minted.hint.0),
            (good.generation, &good.hint)
        );
    }
    // The file covers each prefix, each generation, and each reason.
    let vectors = &*VECTORS;
    let covered: BTreeSet<_> = vectors
        .good
        .iter()
        .map(|good| (&*good.prefix, good.generation))
        .collect();
    for (prefix, generation) in [
        ("kw", 1),
        ("kw", 2),
        ("kwt", 1),
        ("kwt", 2),
        ("acme_live", 2),
    ] {
        assert!(
            covered.contains(&(prefix, generation)),
            "{prefix}, {generation}"
        );
    }
    for (reason, count) in [
        ("prefix", 8),
        ("length", 5),
        ("digits", 4),
        ("checksum", 5),
        ("tag", 5),
    ] {
        let broken = vectors
            .broken
            .iter()
            .filter(|broken| broken.reason == reason);
        assert_eq!(broken.count(), count, "{reason}");
    }
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
