//! The encoding of an entry: the record's fields and the stamp, as a protobuf message. Decoding runs
//! the check of each field and refuses the whole entry if one fails.
//!
//! When you change the fields, raise `FORMAT` in `crates/crypto/src/cache_key.rs`.

use std::collections::BTreeMap;

use prost::Message as _;

use keyward_core::fence::{Epoch, Stamp};
use keyward_core::key::{KeyRecord, Timestamp};
use keyward_store::raw::{self, RawKey};

#[derive(prost::Message)]
struct Message {
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
    #[prost(bool, tag = "20")]
    revoked: bool,
}

/// Encodes an entry, to be sealed.
pub fn encode(record: &KeyRecord, stamp: Stamp) -> Vec<u8> {
    Message {
        system: stamp.epoch.system,
        timeline: stamp.epoch.timeline,
        incarnation: stamp.epoch.incarnation,
        revision: stamp.revision,
        id: record.id.as_bytes().to_vec(),
        account: record.account.as_str().to_owned(),
        name: record.name.as_str().to_owned(),
        hint: record.hint.0.clone(),
        scopes: record.scopes.to_vec(),
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
        revoked: record.revoked,
    }
    .encode_to_vec()
}

/// The reverse of `encode`; `None` if any field is invalid.
pub fn decode(bytes: &[u8]) -> Option<(KeyRecord, Stamp)> {
    let message = Message::decode(bytes).ok()?;
    let record = RawKey {
        id: raw::id(&message.id).ok()?,
        account: message.account,
        name: message.name,
        hint: message.hint,
        scopes: message.scopes,
        metadata: message.metadata,
        networks: message.networks,
        recoverable: message.recoverable,
        disabled: message.disabled,
        create_time: Timestamp::from_micros(message.create_time),
        expire_time: message.expire_time.map(Timestamp::from_micros),
        revoke_time: message.revoke_time.map(Timestamp::from_micros),
        revoked: message.revoked,
        revoke_reason: message.revoke_reason,
        replaced_by: message.replaced_by,
        revision: message.changed_at.try_into().ok()?,
    };
    let stamp = Stamp {
        epoch: Epoch {
            system: message.system,
            timeline: message.timeline,
            incarnation: message.incarnation,
        },
        revision: message.revision,
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
            revoked: full,
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
    fn a_record_is_decoded_as_it_was_encoded() {
        for full in [false, true] {
            let record = record(full);
            assert_eq!(decode(&encode(&record, STAMP)), Some((record, STAMP)));
        }
    }

    #[test]
    fn an_entry_with_an_invalid_field_is_refused() {
        let mut message = Message::decode(&encode(&record(true), STAMP)[..]).unwrap();
        message.replaced_by = Some(vec![1]);
        assert_eq!(decode(&message.encode_to_vec()), None);
        let mut message = Message::decode(&encode(&record(true), STAMP)[..]).unwrap();
        message.account = String::new();
        assert_eq!(decode(&message.encode_to_vec()), None);
        assert_eq!(decode(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
