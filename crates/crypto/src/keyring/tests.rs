//! What a keyring recognises, seals and opens, and which of its keys are active.

use std::collections::HashSet;

use proptest::prelude::*;

use super::super::testing::{Counting, material};
use super::*;
use crate::SecretKey;

fn keyring(generations: &[u32], seals: &[u32]) -> Keyring {
    Keyring::new(&material(generations, seals), Active::default()).unwrap()
}

fn minting(generation: u32) -> Active {
    Active {
        generation: Some(generation),
        ..Active::default()
    }
}

fn prefixes() -> Vec<Prefix> {
    ["kw", "kwt"].map(|text| Prefix::new(text).unwrap()).into()
}

fn judge(keyring: &Keyring, text: &str) -> Option<(Digest, u32)> {
    let prefixes = prefixes();
    let (prefix, body) = TextForm::read(text, &prefixes).unwrap();
    keyring.digest_of(prefix, &body, text)
}

struct Fixed([u8; RANDOM_LEN]);

impl Entropy for Fixed {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

proptest! {
    #[test]
    fn a_minted_key_is_recognised(random: [u8; RANDOM_LEN], which in 0..2_usize) {
        let keyring = keyring(&[1, 2], &[1]);
        let minted = keyring.mint(&prefixes()[which], &Fixed(random));
        prop_assert_eq!(judge(&keyring, minted.text.expose()), Some((minted.digest, 2)));
        prop_assert_eq!(minted.generation, 2);
        prop_assert!(minted.text.expose().starts_with(&minted.hint.0));
        prop_assert_eq!(minted.hint.0.len(), prefixes()[which].as_str().len() + 5);
    }

    #[test]
    fn an_invented_key_is_not_recognised(random: [u8; RANDOM_LEN], at in 0..32_usize, flip in 1..=255_u8) {
        let (keyring, prefixes) = (keyring(&[1, 2], &[1]), prefixes());
        let minted = keyring.mint(&prefixes[0], &Fixed(random));
        let (_, body) = TextForm::read(minted.text.expose(), &prefixes).unwrap();
        let mut bytes: Vec<u8> = [body.random(), body.tag()].concat();
        bytes[at] ^= flip;
        let (random, tag) = bytes.split_at(RANDOM_LEN);
        let altered = Body::new(random.try_into().unwrap(), tag.try_into().unwrap());
        // `write` computes a new checksum, so only the tag is wrong.
        prop_assert_eq!(judge(&keyring, TextForm::write(&prefixes[0], &altered).expose()), None);
        prop_assert_eq!(judge(&keyring, TextForm::write(&prefixes[1], &body).expose()), None);
    }
}

#[test]
fn another_keyring_does_not_recognise_a_key() {
    let minted = keyring(&[1], &[1]).mint(&prefixes()[0], &Counting::default());
    assert_eq!(judge(&keyring(&[2, 3], &[1]), minted.text.expose()), None);
}

#[test]
fn a_key_of_an_older_generation_is_recognised() {
    let prefix = &prefixes()[0];
    let old = keyring(&[1], &[1]).mint(prefix, &Counting::default());
    let both = keyring(&[1, 2], &[1]);
    assert_eq!(judge(&both, old.text.expose()), Some((old.digest, 1)));
    assert_eq!(both.mint(prefix, &Counting::default()).generation, 2);
}

#[test]
fn the_active_generation_mints() {
    let material = material(&[1, 2, 5], &[1]);
    let keyring = Keyring::new(&material, minting(2)).unwrap();
    assert_eq!(
        keyring
            .mint(&prefixes()[0], &Counting::default())
            .generation,
        2
    );
    assert_eq!(
        (keyring.active(), keyring.generations().collect()),
        (2, vec![2, 5, 1])
    );
    assert_eq!(
        Keyring::new(&material, minting(3)).unwrap_err(),
        NoKeyring::LacksActive(KeyName::parse("generation-3").unwrap())
    );
}

#[test]
fn a_merged_keyring_has_the_kept_keys_of_both() {
    let old = keyring(&[1, 2], &[1]);
    let files = keyring(&[2, 3, 4], &[2]);
    let active = Active {
        generation: Some(2),
        seal: Some(1),
        ..Active::default()
    };
    let retired = KeyName::parse("generation-3").unwrap();
    let merge = |active| old.merged(&files, active, |name| name != retired, HashSet::new());
    let merged = merge(active).unwrap();
    let names: Vec<_> = merged.names().iter().map(KeyName::to_string).collect();
    assert_eq!(
        names,
        [
            "generation-2",
            "generation-4",
            "generation-1",
            "seal-1",
            "seal-2"
        ]
    );
    assert_eq!((merged.active(), merged.active_seal()), (2, 1));
    let minted = old.mint(&prefixes()[0], &Counting::default());
    assert!(judge(&merged, minted.text.expose()).is_some());
    let none = old.merged(&files, active, |_| false, HashSet::new());
    assert_eq!(none.unwrap_err(), NoKeyring::NoGeneration);
    let refused = merge(minting(3));
    assert_eq!(refused.unwrap_err(), NoKeyring::LacksActive(retired));
}

#[test]
fn an_incomplete_keyring_is_refused() {
    assert_eq!(
        Keyring::new(&material(&[], &[1]), Active::default()).unwrap_err(),
        NoKeyring::NoGeneration
    );
    assert_eq!(
        Keyring::new(&material(&[1], &[]), Active::default()).unwrap_err(),
        NoKeyring::NoSeal
    );
}

#[test]
fn the_highest_version_seals_and_every_version_opens() {
    let (id, account) = (
        KeyId::from_bytes([1; 16]),
        AccountId::new("account_id", "42".to_owned()).unwrap(),
    );
    let text = SecretText::new("kw_secret".to_owned());
    let purpose = SealPurpose::RECOVERABLE_KEY;
    let seal = |keyring: &Keyring| {
        keyring
            .seal(purpose, &id, &account, &text, &Counting::default())
            .unwrap()
    };
    let (old, both) = (keyring(&[1], &[1]), keyring(&[1], &[1, 2]));
    assert_eq!(
        (seal(&old).version(), seal(&both).version()),
        (Some(1), Some(2))
    );
    for sealed in [seal(&old), seal(&both)] {
        assert_eq!(both.open(purpose, &id, &account, &sealed).unwrap(), text);
    }
    let error = old.open(purpose, &id, &account, &seal(&both)).unwrap_err();
    assert_eq!(error, OpenError::UnknownVersion(2));
    let empty = Sealed::from_bytes(Vec::new());
    assert_eq!(
        both.open(purpose, &id, &account, &empty).unwrap_err(),
        OpenError::DoesNotOpen
    );
}

#[test]
fn check_values_distinguish_keyrings() {
    let ours = keyring(&[1, 2], &[1]).check_values();
    let names: Vec<_> = ours
        .iter()
        .map(|check| (check.kind.name(), check.number))
        .collect();
    assert_eq!(names, [("generation", 2), ("generation", 1), ("seal", 1)]);
    assert_eq!(keyring(&[1], &[1]).check_values(), ours[1..]);
    let other = SecretKey::new(&[0xee; 32]);
    let with = |change: &dyn Fn(&mut KeyringMaterial)| {
        let mut material = material(&[1, 2], &[1]);
        change(&mut material);
        Keyring::new(&material, Active::default())
            .unwrap()
            .check_values()
    };
    // Each secret and each number changes the value.
    let tag = with(&|m| m.generations.get_mut(&1).unwrap().tag_key = other.clone());
    let pepper = with(&|m| m.generations.get_mut(&1).unwrap().pepper = other.clone());
    let seal = with(&|m| m.seals = [(1, other.clone())].into());
    let moved = with(&|m| m.seals = [(2, m.seals[&1].clone())].into());
    let changed = |theirs: Vec<CheckValue>| {
        let differ = ours.iter().zip(&theirs).map(|(a, b)| a.value != b.value);
        differ.collect::<Vec<_>>()
    };
    assert_eq!(changed(tag), [false, true, false]);
    assert_eq!(changed(pepper), [false, true, false]);
    assert_eq!(changed(seal), [false, false, true]);
    assert_eq!(changed(moved), [false, false, true]);
}

#[test]
fn debug_shows_numbers_only() {
    let keyring = keyring(&[1, 2], &[3]);
    assert_eq!(
        format!("{keyring:?}"),
        "Keyring { generations: [2, 1], seals: [3] }"
    );
    let minted = keyring.mint(&prefixes()[0], &Counting::default());
    let shown = format!("{minted:?}");
    assert!(
        shown.contains("SecretText(redacted)") && shown.contains("Digest(redacted)"),
        "{shown}"
    );
    assert!(!shown.contains(&minted.text.expose()[7..15]), "{shown}");
}

#[test]
fn a_keyring_seals_the_audit_with_the_active_key_and_has_the_others() {
    let with = |audits: &[u32], active| {
        let secret = |version: u32| SecretKey::new(&[u8::try_from(version).unwrap() + 50; 32]);
        let material = KeyringMaterial {
            audits: audits.iter().map(|n| (*n, secret(*n))).collect(),
            ..material(&[1], &[1])
        };
        let audit = active;
        let active = Active {
            audit,
            ..Active::default()
        };
        Keyring::new(&material, active)
    };
    let version = |keyring: &Keyring| keyring.audit_key().map(|key| key.version());
    assert_eq!(version(&with(&[], None).unwrap()), None);
    assert_eq!(version(&with(&[1, 2], None).unwrap()), Some(2));
    let keyring = with(&[1, 2, 3], Some(2)).unwrap();
    assert_eq!(version(&keyring), Some(2));
    for number in 1..=3 {
        assert_eq!(keyring.audit_key_of(number).unwrap().version(), number);
    }
    assert!(keyring.audit_key_of(4).is_none());
    let lacks = NoKeyring::LacksActive(KeyName::parse("audit-3").unwrap());
    assert_eq!(with(&[1, 2], Some(3)).unwrap_err(), lacks);
    // A retired key goes, and a new file comes.
    let is_kept = |name: KeyName| name.to_string() != "audit-1";
    let files = with(&[4], None).unwrap();
    let active = Active {
        audit: Some(3),
        ..Active::default()
    };
    let merged = keyring.merged(&files, active, is_kept, HashSet::new());
    let names: Vec<_> = merged
        .unwrap()
        .names()
        .iter()
        .map(KeyName::to_string)
        .collect();
    assert_eq!(names[2..], ["audit-3", "audit-4", "audit-2"]);
}
