//! The digests of foreign keys: keys that another product issued. Each text has one digest for each
//! scheme under which it may have been imported. A digest that a product kept is wrapped once, by the
//! foreign pepper, and is then the one that the text has under its scheme.

use std::collections::{BTreeMap, HashSet};

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};

use super::generation::Digest;
use super::keyring::NoKeyring;
use super::material::{CheckValue, KeyKind, KeyName, KeyringMaterial};

/// How a product computed the digest of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DigestScheme {
    /// SHA-256 of the text. A key that is imported by its text has this scheme, too.
    Sha256,
    /// HMAC-SHA256 of the text, under the import secret with this number.
    HmacSha256(u32),
}

/// The foreign pepper and the import secrets in ascending order, as HMAC states that are wiped on drop.
pub(super) struct ForeignDigests {
    pepper: Hmac<Sha256>,
    secrets: Vec<(u32, Hmac<Sha256>)>,
    /// The keys that every instance has loaded; `None` for all. A key that was imported by another one
    /// would not be found everywhere.
    in_force: Option<HashSet<KeyName>>,
}

impl ForeignDigests {
    /// `None` for a keyring without a foreign pepper. It must not hold import secrets then: a key that
    /// was imported by them is never found, not even a revoked one.
    pub(super) fn new(material: &KeyringMaterial) -> Result<Option<Self>, NoKeyring> {
        let Some(pepper) = &material.foreign else {
            return match material.imports.is_empty() {
                true => Ok(None),
                false => Err(NoKeyring::NoForeignPepper),
            };
        };
        let secrets = material.imports.iter();
        Ok(Some(Self {
            pepper: pepper.hmac(),
            secrets: secrets
                .map(|(number, secret)| (*number, secret.hmac()))
                .collect(),
            in_force: None,
        }))
    }

    /// The pepper and the secrets of both. Those of `newer` are used if both have one of the same number.
    pub(super) fn merged(
        older: Option<&Self>,
        newer: Option<&Self>,
        in_force: HashSet<KeyName>,
    ) -> Option<Self> {
        let pepper = newer.or(older)?.pepper.clone();
        let secrets = older
            .into_iter()
            .chain(newer)
            .flat_map(|digests| &digests.secrets);
        let secrets: BTreeMap<_, _> = secrets.cloned().collect();
        Some(Self {
            pepper,
            secrets: secrets.into_iter().collect(),
            in_force: Some(in_force),
        })
    }

    /// The digests that a text may be stored under: one for each scheme, SHA-256 first.
    pub(super) fn of(&self, text: &str) -> impl Iterator<Item = Digest> {
        let secrets = self.secrets.iter();
        let by_secrets = secrets.map(move |(_, secret)| updated(secret, text.as_bytes()));
        std::iter::once_with(move || Sha256::digest(text).into())
            .chain(by_secrets)
            .map(|given| self.wrapped(&given))
    }

    /// The digest under which to store a key whose digest was `given` under `scheme`. `None` if the
    /// keyring lacks the scheme's secret, or if another instance may lack it.
    pub(super) fn wrap(&self, scheme: DigestScheme, given: &[u8; 32]) -> Option<Digest> {
        let is_in_force = |kind, number| {
            let names = self.in_force.as_ref();
            names.is_none_or(|names| names.contains(&KeyName { kind, number }))
        };
        let is_usable = match scheme {
            DigestScheme::Sha256 => true,
            DigestScheme::HmacSha256(number) => {
                self.numbers().any(|known| known == number) && is_in_force(KeyKind::Import, number)
            }
        };
        (is_usable && is_in_force(KeyKind::Foreign, 1)).then(|| self.wrapped(given))
    }

    /// The numbers of the import secrets.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.secrets.iter().map(|(number, _)| *number)
    }

    /// One check value for the pepper and one for each secret. A secret's value covers the pepper, too:
    /// otherwise a copy of the database would allow guesses at a weak secret of a product.
    pub(super) fn checks(&self) -> impl Iterator<Item = CheckValue> {
        let secrets = self.secrets.iter();
        let by_secrets = secrets.map(|(number, secret)| {
            CheckValue::over(KeyKind::Import, *number, [secret, &self.pepper])
        });
        std::iter::once_with(|| CheckValue::over(KeyKind::Foreign, 1, [&self.pepper]))
            .chain(by_secrets)
    }

    fn wrapped(&self, given: &[u8; 32]) -> Digest {
        Digest::from_bytes(updated(&self.pepper, given))
    }
}

fn updated(state: &Hmac<Sha256>, bytes: &[u8]) -> [u8; 32] {
    let mut mac = state.clone();
    mac.update(bytes);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{material, with_foreign};
    use super::*;
    use crate::{Active, ImportSecret, Keyring};

    const TEXT: &str = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";

    fn keyring(secrets: &[&[u8]]) -> Keyring {
        Keyring::new(&with_foreign(secrets), Active::default()).unwrap()
    }

    /// HMAC-SHA256 as other programs compute it.
    fn hmac(secret: &[u8], text: &[u8]) -> [u8; 32] {
        updated(&ImportSecret::new(secret).unwrap().hmac(), text)
    }

    #[test]
    fn a_text_has_a_digest_for_each_scheme_and_a_wrapped_digest_is_one_of_them() {
        let long = [9; 1_024];
        let keyring = keyring(&[b"secret", &long]);
        let digests: Vec<_> = keyring.foreign_digests(TEXT).collect();
        let sha = Sha256::digest(TEXT).into();
        let given = [
            (DigestScheme::Sha256, sha),
            (
                DigestScheme::HmacSha256(1),
                hmac(b"secret", TEXT.as_bytes()),
            ),
            (DigestScheme::HmacSha256(2), hmac(&long, TEXT.as_bytes())),
        ];
        let wrapped = given.map(|(scheme, given)| keyring.wrap(scheme, &given).unwrap());
        assert_eq!(digests, wrapped);
        assert_eq!(keyring.wrap(DigestScheme::HmacSha256(3), &sha), None);
        assert_eq!(keyring.import_secrets().collect::<Vec<_>>(), [1, 2]);
        let other: Vec<_> = keyring.foreign_digests("another").collect();
        assert!(other.iter().all(|digest| !digests.contains(digest)));
    }

    #[test]
    fn the_digests_are_as_documented() {
        // RFC 4231, test case 2.
        let known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(
            hex::encode(hmac(b"Jefe", b"what do ya want for nothing?")),
            known
        );
        let pepper = *with_foreign(&[]).foreign.unwrap().expose();
        let sha: [u8; 32] = Sha256::digest(TEXT).into();
        let digest = keyring(&[]).foreign_digests(TEXT).next().unwrap();
        assert_eq!(digest.as_bytes(), &hmac(&pepper, &sha));
    }

    #[test]
    fn without_a_foreign_pepper_no_text_has_a_foreign_digest() {
        let old = Keyring::new(&material(&[1], &[1]), Active::default()).unwrap();
        assert!(!old.has_foreign_pepper());
        assert_eq!(old.foreign_digests(TEXT).count(), 0);
        assert_eq!(old.wrap(DigestScheme::Sha256, &[1; 32]), None);
        let mut incomplete = with_foreign(&[b"secret"]);
        incomplete.foreign = None;
        assert_eq!(
            Keyring::new(&incomplete, Active::default()).unwrap_err(),
            NoKeyring::NoForeignPepper
        );
    }

    #[test]
    fn check_values_name_the_pepper_and_each_secret() {
        let checks = |secrets: &[&[u8]]| {
            let all = keyring(secrets).check_values();
            all.into_iter()
                .filter(|check| matches!(check.kind, KeyKind::Foreign | KeyKind::Import))
                .collect::<Vec<_>>()
        };
        let ours = checks(&[b"one", b"two"]);
        let names: Vec<_> = ours
            .iter()
            .map(|check| (check.kind.name(), check.number))
            .collect();
        assert_eq!(names, [("foreign", 1), ("import", 1), ("import", 2)]);
        let other = checks(&[b"one", b"three"]);
        assert!(ours[..2] == other[..2] && ours[2].value != other[2].value);
    }

    #[test]
    fn a_digest_is_wrapped_only_by_keys_that_every_instance_has() {
        let keyring = keyring(&[b"one", b"two"]);
        let name = |text: &str| KeyName::parse(text).unwrap();
        let wraps = |in_force: &[&str]| {
            let in_force = in_force.iter().map(|text| name(text)).collect();
            let merged = keyring.merged(&keyring, Active::default(), |_| true, in_force);
            let merged = merged.unwrap();
            let schemes = [
                DigestScheme::Sha256,
                DigestScheme::HmacSha256(1),
                DigestScheme::HmacSha256(2),
            ];
            assert_eq!(merged.foreign_digests(TEXT).count(), 3, "all are found");
            schemes.map(|scheme| merged.wrap(scheme, &[7; 32]).is_some())
        };
        assert_eq!(wraps(&[]), [false, false, false]);
        assert_eq!(wraps(&["import-1"]), [false, false, false]);
        assert_eq!(wraps(&["foreign-1", "import-2"]), [true, false, true]);
    }
}
