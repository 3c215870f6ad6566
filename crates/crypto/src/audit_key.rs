//! The MACs that make the audit tamper-evident. Who can write the store, but has no audit key, can make
//! none of them.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::material::{CheckValue, KeyKind, SecretKey};

/// What a MAC of the audit is for. A MAC for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditPurpose {
    /// The personal fields of an event.
    Personal,
    /// An event and its place in the chain.
    Event,
    /// A seal over the events before it.
    Seal,
    /// The permission to begin the chain at a later seal, because earlier ones were trimmed.
    Trim,
}

impl AuditPurpose {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Personal => b"personal",
            Self::Event => b"event",
            Self::Seal => b"seal",
            Self::Trim => b"trim",
        }
    }
}

/// One version of the audit key. Its secret is wiped on drop.
pub struct AuditKey {
    pub(super) check: CheckValue,
    mac: Hmac<Sha256>,
}

impl AuditKey {
    pub(super) fn new(version: u32, key: &SecretKey) -> Self {
        let mac = key.hmac();
        Self {
            check: CheckValue::over(KeyKind::Audit, version, [&mac]),
            mac,
        }
    }

    /// The number in the name of the key's file.
    pub const fn version(&self) -> u32 {
        self.check.number
    }

    /// The MAC over fields. Each follows its length, so that other fields never give the same bytes; an
    /// absent field differs from an empty one.
    pub fn mac(&self, purpose: AuditPurpose, fields: &[Option<&[u8]>]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(b"keyward audit v1 ");
        for field in std::iter::once(&Some(purpose.name())).chain(fields) {
            // No field is that long.
            let length = field.map_or(u64::MAX, |field| field.len() as u64);
            mac.update(&length.to_be_bytes());
            mac.update(field.unwrap_or_default());
        }
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_gives_another_mac() {
        let key = |version, byte| AuditKey::new(version, &SecretKey::new(&[byte; 32]));
        let (one, two) = (key(1, 1), key(1, 2));
        let mut seen = std::collections::HashSet::new();
        for key in [&one, &two] {
            for purpose in [
                AuditPurpose::Personal,
                AuditPurpose::Event,
                AuditPurpose::Seal,
                AuditPurpose::Trim,
            ] {
                let fields: [&[Option<&[u8]>]; 8] = [
                    &[],
                    &[None],
                    &[Some(b"")],
                    &[None, None],
                    &[Some(b"ab"), Some(b"c")],
                    &[Some(b"a"), Some(b"bc")],
                    &[Some(b"abc")],
                    &[Some(b"abc"), None],
                ];
                for fields in fields {
                    assert!(
                        seen.insert(key.mac(purpose, fields)),
                        "{purpose:?} {fields:?}"
                    );
                }
            }
        }
        assert_eq!(
            one.mac(AuditPurpose::Event, &[]),
            key(2, 1).mac(AuditPurpose::Event, &[]),
            "the key alone decides"
        );
        assert_eq!(format!("{one:?}"), "AuditKey(1)");
    }
}
