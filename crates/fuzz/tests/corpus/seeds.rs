//! The seeds of targets whose inputs are in a format of the service: valid inputs, from which the fuzzer
//! starts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use keyward::cache::l2::encoding::encode;
use keyward_core::fence::{Epoch, Stamp};
use keyward_core::key::{
    AccountId, Entropy, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes, SlotName,
    Timestamp,
};
use keyward_crypto::keyring_files;

/// Randomness that is the same in every run.
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes();
            chunk.copy_from_slice(&next[8 - chunk.len()..]);
        }
    }
}

mod requests;

pub(crate) use requests::requests;

pub(crate) type Seeds = BTreeMap<&'static str, Vec<u8>>;

pub(crate) fn cache_entry() -> Seeds {
    let text = |text: &str| text.to_owned();
    let record = |full: bool| KeyRecord {
        id: KeyId::from_bytes([7; 16]),
        account: AccountId::new("account_id", text("42")).unwrap(),
        name: SlotName::default_slot(),
        hint: Hint(text("kw_abcd")),
        scopes: Scopes::new("scopes", vec![text("read"), text("trade")]).unwrap(),
        metadata: Metadata::new("metadata", [(text("env"), text("test"))].into()).unwrap(),
        networks: Networks::new("allowed_cidrs", &[text("10.0.0.0/8"), text("::1")]).unwrap(),
        recoverable: full,
        disabled: full,
        create_time: Timestamp::from_micros(-5),
        expire_time: full.then(|| Timestamp::from_micros(9)),
        revoke_time: full.then(|| Timestamp::from_micros(0)),
        revoked: full,
        revoke_reason: full.then(|| Reason::new("reason", text("leaked")).unwrap()),
        replaced_by: full.then(|| KeyId::from_bytes([8; 16])),
        revision: u64::from(full),
    };
    let stamp = Stamp {
        epoch: Epoch {
            system: u64::MAX,
            timeline: 3,
            incarnation: 2,
        },
        revision: 99,
    };
    BTreeMap::from([
        ("live", encode(&record(false), stamp)),
        ("revoked", encode(&record(true), stamp)),
        ("notice", vec![1; 32]),
    ])
}

pub(crate) fn keyring() -> Seeds {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("keyring");
    let entropy = Counting(0xfedc_ba98_7654_3210.into());
    keyring_files::generate(&dir, &entropy).unwrap();
    let edited = |choice: u8, name: &str, from: &str, to: &str| {
        let content = std::fs::read_to_string(dir.join(name)).unwrap();
        [&[choice][..], content.replace(from, to).as_bytes()].concat()
    };
    let file = |choice, name| edited(choice, name, "", "");
    BTreeMap::from([
        ("generation", file(0, "generation-1")),
        ("seal", file(2, "seal-1")),
        ("cache", file(4, "cache-1")),
        ("generation-repaired", file(1, "generation-1")),
        ("seal-repaired", file(3, "seal-1")),
        (
            "second-generation",
            edited(7, "generation-1", "generation = 1", "generation = 2"),
        ),
        ("number-zero", file(11, "cache-1")),
        ("foreign", file(12, "foreign-1")),
        ("second-foreign", edited(15, "foreign-1", "= 1", "= 2")),
        (
            "import",
            edited(17, "seal-1", "seal = 1\nkey = ", "import = 1\nkey = abcd"),
        ),
        ("capital-digits", edited(3, "seal-1", "fedc", "FEDC")),
        ("carriage-return", edited(3, "seal-1", "\ncrc", "\r\ncrc")),
    ])
}
