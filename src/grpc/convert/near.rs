//! Converts the messages of near-caches.

use keyward_proto::v1;

use super::{Checked, time};
use crate::service::ValidKey;
use keyward_core::fence::{Epoch, NearAnswer};
use keyward_core::key::{FieldError, KeyId};

/// The most keys that a poll may name as used.
const MOST_USED: usize = 1_000;

pub(in crate::grpc) fn epoch(epoch: v1::Epoch) -> Epoch {
    Epoch {
        system: epoch.system,
        timeline: epoch.timeline,
        incarnation: epoch.incarnation,
    }
}

fn wire_epoch(epoch: Epoch) -> v1::Epoch {
    v1::Epoch {
        system: epoch.system,
        timeline: epoch.timeline,
        incarnation: epoch.incarnation,
    }
}

/// The keys that a poll names as used.
pub(in crate::grpc) fn used(ids: &[Vec<u8>]) -> Checked<Vec<KeyId>> {
    if ids.len() > MOST_USED {
        let reason = format!("has {} keys; the maximum is {MOST_USED}", ids.len());
        return Err(FieldError::new("used", reason));
    }
    let id = |bytes: &Vec<u8>| Some(KeyId::from_bytes(bytes.as_slice().try_into().ok()?));
    let ids = ids.iter().map(id).collect::<Option<_>>();
    ids.ok_or_else(|| FieldError::new("used", "has an id that is not 16 bytes"))
}

/// The answer to the poll with this number.
pub(in crate::grpc) fn near_answer(
    poll: u64,
    answer: &NearAnswer,
) -> v1::WatchInvalidationsResponse {
    let invalidation = |(id, revision): &(KeyId, u64)| v1::Invalidation {
        id: id.as_bytes().to_vec(),
        revision: *revision,
    };
    v1::WatchInvalidationsResponse {
        poll,
        epoch: Some(wire_epoch(answer.epoch)),
        applied: answer.applied,
        fresh_for: answer.fresh_for.and_then(|time| time.try_into().ok()),
        store_time: Some(time(answer.database_time)),
        invalidations: answer.changes.iter().flatten().map(invalidation).collect(),
        reset: answer.changes.is_none(),
        off: false,
    }
}

/// What a near-cache keeps of a key that was just judged VALID. `None` if it cannot keep the key.
pub(in crate::grpc) fn cache_entry(valid: &ValidKey) -> Option<v1::CacheEntry> {
    let (ids, terms) = valid.kept()?;
    Some(v1::CacheEntry {
        epoch: Some(wire_epoch(valid.stamp.epoch)),
        revision: valid.stamp.revision,
        ids: ids.iter().map(|id| id.as_bytes().to_vec()).collect(),
        revoke_time: terms.revoke_time().map(time),
        allowed_cidrs: terms.networks().to_texts(),
        store_time: Some(time(valid.at)),
    })
}
