//! What is kept of a record: its fields in protobuf's encoding, with the stamp. It is read back
//! through the checks of each field; what does not pass is no entry.
//!
//! Whoever changes the fields raises `FORM` in `crypto/cache_key.rs`.

use std::collections::BTreeMap;

use prost::Message;

use keyward_core::fence::{Epoch, Stamp};
use keyward_core::key::{KeyRecord, Timestamp};
use keyward_store::raw::RawKey;

#[derive(Message)]
struct Kept {
    #[prost(fixed64, tag = "1")]
    system: u64,
    #[prost(uint32, tag = "2")]
    timeline: u32,
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(bytes = "vec", tag = "5")]
    id: Vec<u8>,
    #[prost(string, tag = "6")]
    account: String,
    #[prost(string, tag = "7")]
    name: String,
    #[prost(string, tag = "8")]
    hint: String,
    #[prost(string, repeated, tag = "9")]
    scopes: Vec<String>,
    #[prost(btree_map = "string, string", tag = "10")]
    metadata: BTreeMap<String, String>,
    #[prost(string, repeated, tag = "11")]
    networks: Vec<String>,
    #[prost(bool, tag = "12")]
    recoverable: bool,
    #[prost(bool, tag = "13")]
    disabled: bool,
    #[prost(sint64, tag = "14")]
    create_time: i64,
    #[prost(sint64, optional, tag = "15")]
    expire_time: Option<i64>,
    #[prost(sint64, optional, tag = "16")]
    revoke_time: Option<i64>,
    #[prost(string, optional, tag = "17")]
    revoke_reason: Option<String>,
    #[prost(bytes = "vec", optional, tag = "18")]
    replaced_by: Option<Vec<u8>>,
    #[prost(uint64, tag = "19")]
    changed_at: u64,
}

/// The bytes that are sealed and kept.
pub(super) fn encode(record: &KeyRecord, stamp: Stamp) -> Vec<u8> {
    Kept {
        system: stamp.epoch.system,
        timeline: stamp.epoch.timeline,
        incarnation: stamp.epoch.incarnation,
        revision: stamp.revision,
        id: record.id.as_bytes().to_vec(),
        account: record.account.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        hint: record.hint.0.clone(),
        scopes: record.scopes.as_slice().to_vec(),
        metadata: record.metadata.entries().clone(),
        networks: record.networks.to_texts(),
        recoverable: record.recoverable,
        disabled: record.disabled,
        create_time: record.create_time.as_micros(),
        expire_time: record.expire_time.map(Timestamp::as_micros),
        revoke_time: record.revoke_time.map(Timestamp::as_micros),
        revoke_reason: record
            .revoke_reason
            .as_ref()
            .map(|reason| reason.as_str().to_owned()),
        replaced_by: record.replaced_by.map(|id| id.as_bytes().to_vec()),
        changed_at: record.revision,
    }
    .encode_to_vec()
}

/// The reverse of `encode`.
pub(super) fn decode(bytes: &[u8]) -> Option<(KeyRecord, Stamp)> {
    let kept = Kept::decode(bytes).ok()?;
    let record = RawKey {
        id: kept.id,
        account: kept.account,
        name: kept.name,
        hint: kept.hint,
        scopes: kept.scopes,
        metadata: kept.metadata,
        networks: kept.networks,
        recoverable: kept.recoverable,
        disabled: kept.disabled,
        create_time: Timestamp::from_micros(kept.create_time),
        expire_time: kept.expire_time.map(Timestamp::from_micros),
        revoke_time: kept.revoke_time.map(Timestamp::from_micros),
        revoke_reason: kept.revoke_reason,
        replaced_by: kept.replaced_by,
        revision: kept.changed_at.try_into().ok()?,
    };
    let stamp = Stamp {
        epoch: Epoch {
            system: kept.system,
            timeline: kept.timeline,
            incarnation: kept.incarnation,
        },
        revision: kept.revision,
    };
    Some((record.check().ok()?, stamp))
}

#[cfg(test)]
mod tests {
    use keyward_core::key::{AccountId, Hint, KeyId, Metadata, Networks, Reason, Scopes, SlotName};
    use proptest::prelude::*;

    use super::*;

    fn record(full: bool) -> KeyRecord {
        let some = |text: &str| text.to_owned();
        KeyRecord {
            id: KeyId::from_bytes([7; 16]),
            account: AccountId::new("account_id", some("42")).unwrap(),
            name: SlotName::default_slot(),
            hint: Hint(some("kw_abcd")),
            scopes: Scopes::new("scopes", vec![some("read"), some("trade")]).unwrap(),
            metadata: Metadata::new("metadata", [(some("env"), some("test"))].into()).unwrap(),
            networks: Networks::new("allowed_cidrs", &[some("10.0.0.0/8")]).unwrap(),
            recoverable: full,
            disabled: full,
            create_time: Timestamp::from_micros(-5),
            expire_time: full.then(|| Timestamp::from_micros(9)),
            revoke_time: full.then(|| Timestamp::from_micros(0)),
            revoke_reason: full.then(|| Reason::new("reason", some("leaked")).unwrap()),
            replaced_by: full.then(|| KeyId::from_bytes([8; 16])),
            revision: u64::from(full),
        }
    }

    const STAMP: Stamp = Stamp {
        epoch: Epoch {
            system: u64::MAX,
            timeline: 3,
            incarnation: 2,
        },
        revision: 99,
    };

    #[test]
    fn a_record_survives() {
        for full in [false, true] {
            let record = record(full);
            assert_eq!(decode(&encode(&record, STAMP)), Some((record, STAMP)));
        }
    }

    #[test]
    fn a_field_that_its_limits_do_not_allow_is_no_entry() {
        let mut kept = Kept::decode(&encode(&record(true), STAMP)[..]).unwrap();
        kept.replaced_by = Some(vec![1]);
        assert_eq!(decode(&kept.encode_to_vec()), None);
        let mut kept = Kept::decode(&encode(&record(true), STAMP)[..]).unwrap();
        kept.account = String::new();
        assert_eq!(decode(&kept.encode_to_vec()), None);
        assert_eq!(decode(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
