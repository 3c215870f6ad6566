//! Converts messages to domain types and back.

mod audit;
mod keyring;
mod keys;
mod near;
mod tokens;
mod webhooks;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use keyward_proto::v1;
use prost::Message as _;

use crate::cache::{Consistency, ForeignKeys, Keep, KeptAnswer, KeptForeign, KeptKey, Uses};
use crate::service::{Issue, PageQuery, Revoke, RevokeTarget, ServiceError, Verified, Verify};
use keyward_core::fence::Ask;
use keyward_core::key::{
    AccountId, FieldError, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes, SecretText,
    SlotName, TextForm, Timestamp, Verdict, shown,
};
use keyward_store::{Expiry, KeyChanges};

pub(super) use audit::{audit_events, list_audit, verified_audit, verify_audit};
pub(super) use keyring::{account_to_erase, key_to_activate, key_to_retire, keyring_key, nothing};
pub(super) use keys::{api_key, api_keys, list};
pub(super) use near::{cache_entry, epoch, near_answer, used};
pub(super) use tokens::{caller_token, list_tokens, new_token, token_id};
pub(super) use webhooks::{replay, webhook, webhook_test, webhook_to_test};

/// The verdict VALID on the wire.
const VALID: u8 = v1::Verdict::Valid as u8;
/// The maximum number of requests in one VerifyBatch.
const MAX_BATCH: usize = 256;

type Checked<T> = Result<T, FieldError>;

pub(super) fn issue(request: v1::IssueRequest) -> Checked<Issue> {
    let expiry = expiry(request.expire_time, request.ttl)?;
    no_secret("account_id", [&request.account_id])?;
    no_secret("name", [&request.name])?;
    no_secret("scopes", &request.scopes)?;
    no_secret("metadata", entries(&request.metadata))?;
    Ok(Issue {
        account: AccountId::new("account_id", request.account_id)?,
        name: slot(request.name)?,
        scopes: Scopes::new("scopes", request.scopes)?,
        metadata: Metadata::new("metadata", request.metadata)?,
        networks: Networks::new("allowed_cidrs", &request.allowed_cidrs)?,
        recoverable: request.recoverable.unwrap_or(false),
        expiry,
    })
}

fn expiry(
    expire_time: Option<prost_types::Timestamp>,
    ttl: Option<prost_types::Duration>,
) -> Checked<Expiry> {
    match (expire_time, ttl) {
        (None, None) => Ok(Expiry::Never),
        (Some(time), None) => Ok(Expiry::At(timestamp("expire_time", time)?)),
        (None, Some(ttl)) => Ok(Expiry::After(duration("ttl", ttl)?)),
        (Some(_), Some(_)) => Err(FieldError::new(
            "ttl",
            "cannot be combined with expire_time; send one of them",
        )),
    }
}

pub(super) fn revoke(request: v1::RevokeRequest) -> Result<Revoke, ServiceError> {
    // Wrapped first, so that the text is wiped even if another field is invalid.
    let text = SecretText::new(request.api_key);
    let (id, account) = (request.key_id, request.account_id);
    let is_set = [id.as_str(), text.expose(), account.as_str()].map(|text| !text.is_empty());
    let target = match is_set {
        [true, false, false] => RevokeTarget::Key(key_id("key_id", &id)?),
        [false, true, false] => RevokeTarget::Text(text),
        [false, false, true] => RevokeTarget::Account(AccountId::new("account_id", account)?),
        _ => return Err(ServiceError::NotOne(&["key_id", "api_key", "account_id"])),
    };
    let reason = reason(request.reason)?;
    Ok(Revoke {
        target,
        replace: request.replace,
        grace: request
            .grace
            .map_or(Ok(Duration::ZERO), |grace| duration("grace", grace))?,
        reason,
    })
}

pub(super) fn verify(request: v1::VerifyRequest) -> Checked<Verify> {
    // Wrapped first, so that the text is wiped even if another field is invalid.
    let text = SecretText::new(request.api_key);
    let consistency = match v1::Consistency::try_from(request.consistency) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Default) => Consistency::Default,
        Ok(v1::Consistency::Strong) => Consistency::Strong,
        Err(_) => {
            let reason = format!("{} is not a defined value", request.consistency);
            return Err(FieldError::new("consistency", reason));
        }
    };
    let client = optional(request.client_ip, |text| {
        text.parse::<IpAddr>().map_err(|_| {
            FieldError::new(
                "client_ip",
                "is not an IPv4 or IPv6 address; send the address without port and zone",
            )
        })
    })?;
    let scopes = Scopes::new("required_scopes", request.required_scopes)?;
    Ok(Verify {
        text,
        ask: Ask { scopes, client },
        consistency,
        wants_entry: request.want_cache_entry,
    })
}

pub(super) fn update(request: v1::UpdateRequest) -> Checked<(KeyId, KeyChanges)> {
    let key = request
        .key
        .ok_or_else(|| FieldError::new("key", "is missing"))?;
    let mask = request
        .update_mask
        .map(|mask| mask.paths)
        .unwrap_or_default();
    if mask.is_empty() {
        return Err(FieldError::new(
            "update_mask",
            "must name at least one field",
        ));
    }
    let within = |error: FieldError| error.within("key");
    let id = key_id("key_id", &key.key_id).map_err(within)?;
    let mut changes = KeyChanges::default();
    for path in &mask {
        match path.as_str() {
            "scopes" => {
                no_secret("scopes", &key.scopes).map_err(within)?;
                changes.scopes = Some(Scopes::new("scopes", key.scopes.clone()).map_err(within)?);
            }
            "metadata" => {
                no_secret("metadata", entries(&key.metadata)).map_err(within)?;
                let metadata = Metadata::new("metadata", key.metadata.clone());
                changes.metadata = Some(metadata.map_err(within)?);
            }
            "allowed_cidrs" => {
                let networks = Networks::new("allowed_cidrs", &key.allowed_cidrs);
                changes.networks = Some(networks.map_err(within)?);
            }
            "expire_time" => {
                let end = key.expire_time.map(|time| timestamp("expire_time", time));
                changes.expire_time = Some(end.transpose().map_err(within)?);
            }
            "disabled" => changes.disabled = Some(key.disabled),
            other => {
                let shown = shown(other);
                return Err(FieldError::new(
                    "update_mask",
                    format!(
                        "cannot contain '{shown}'; the fields that can be changed are scopes, \
                         metadata, expire_time, allowed_cidrs and disabled"
                    ),
                ));
            }
        }
    }
    Ok((id, changes))
}

/// Converts all requests of a batch. Wraps each text before it refuses anything, so that every text
/// is wiped.
pub(super) fn verify_batch(request: v1::VerifyBatchRequest) -> Checked<Vec<Verify>> {
    let count = request.requests.len();
    let all: Vec<_> = request.requests.into_iter().map(verify).collect();
    if count > MAX_BATCH {
        let reason = format!("has {count} requests; the maximum is {MAX_BATCH}");
        return Err(FieldError::new("requests", reason));
    }
    let with_index = |(n, request): (usize, Checked<Verify>)| {
        request.map_err(|error| error.within(&format!("requests[{n}]")))
    };
    all.into_iter().enumerate().map(with_index).collect()
}

/// The key to show.
pub(super) enum GetTarget {
    Id(KeyId),
    Text(SecretText),
}

pub(super) fn get(request: v1::GetRequest) -> Result<GetTarget, ServiceError> {
    let text = SecretText::new(request.api_key);
    match [&request.key_id, text.expose()].map(|text| !text.is_empty()) {
        [true, false] => Ok(GetTarget::Id(key_id("key_id", &request.key_id)?)),
        [false, true] => Ok(GetTarget::Text(text)),
        _ => Err(ServiceError::NotOne(&["key_id", "api_key"])),
    }
}

/// Refuses a key or token in a field that is stored, because all readers of the field could use it.
/// The types of the fields do not check this: a stored record must stay readable.
pub(super) fn no_secret<'a>(
    field: &'static str,
    texts: impl IntoIterator<Item = &'a String>,
) -> Checked<()> {
    match texts.into_iter().any(|text| TextForm::is_within(text)) {
        true => Err(FieldError::new(
            field,
            "contains an API key or token, which all readers of this field could use",
        )),
        false => Ok(()),
    }
}

pub(super) fn entries(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = &String> {
    metadata.keys().chain(metadata.values())
}

/// Reads a text; an empty one is absent.
fn optional<T>(text: String, read: impl FnOnce(String) -> Checked<T>) -> Checked<Option<T>> {
    match text.is_empty() {
        true => Ok(None),
        false => read(text).map(Some),
    }
}

/// The slot of a request.
pub(super) fn slot(name: String) -> Checked<SlotName> {
    let named = optional(name, |name| SlotName::new("name", name))?;
    Ok(named.unwrap_or_else(SlotName::default_slot))
}

/// The reason of a revocation.
pub(super) fn reason(text: String) -> Checked<Option<Reason>> {
    no_secret("reason", [&text])?;
    optional(text, |text| Reason::new("reason", text))
}

/// The page that a request asks for.
pub(super) fn page(size: i32, token: String) -> PageQuery {
    PageQuery { size, token }
}

fn key_id(field: &'static str, text: &str) -> Checked<KeyId> {
    KeyId::parse(text).ok_or_else(|| FieldError::new(field, "is not a UUID"))
}

/// Converts a time and cuts it to the microsecond.
pub(super) fn timestamp(field: &'static str, time: prost_types::Timestamp) -> Checked<Timestamp> {
    let nanos = i64::from(time.nanos);
    if !(0..1_000_000_000).contains(&nanos) {
        let reason = format!("has {nanos} nanos; the range is 0 to 999999999");
        return Err(FieldError::new(field, reason));
    }
    let micros = time
        .seconds
        .checked_mul(1_000_000)
        .and_then(|us| us.checked_add(nanos / 1_000));
    micros
        .map(Timestamp::from_micros)
        .ok_or_else(|| FieldError::new(field, "is out of range"))
}

/// Converts a duration, which must not be negative, and cuts it to the microsecond.
fn duration(field: &'static str, duration: prost_types::Duration) -> Checked<Duration> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(FieldError::new(field, "must not be negative"));
    }
    if duration.nanos > 999_999_999 {
        let reason = format!("has {} nanos; the range is 0 to 999999999", duration.nanos);
        return Err(FieldError::new(field, reason));
    }
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u32::try_from(duration.nanos).unwrap_or(0);
    Ok(Duration::new(seconds, nanos / 1_000 * 1_000))
}

pub(super) fn time(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// The response for a verdict. Only VALID carries the data of the key. That a key is dead names it.
pub(super) fn verified(verified: &Verified, wants_entry: bool) -> v1::VerifyResponse {
    let verdict = match verified.verdict {
        Verdict::Valid => v1::Verdict::Valid,
        Verdict::NotFound => v1::Verdict::NotFound,
        Verdict::Malformed => v1::Verdict::Malformed,
        Verdict::Revoked => v1::Verdict::Revoked,
        Verdict::Expired => v1::Verdict::Expired,
        Verdict::Disabled => v1::Verdict::Disabled,
        Verdict::InsufficientScope => v1::Verdict::InsufficientScope,
        Verdict::IpNotAllowed => v1::Verdict::IpNotAllowed,
    };
    match &verified.key {
        // Without a key to show, the response has no verdict.
        Some(key) => {
            let mut bytes = BytesMut::new();
            key.shown()
                .iter()
                .for_each(|shown| encode_valid(shown, &mut bytes));
            v1::VerifyResponse {
                cache_entry: wants_entry.then(|| cache_entry(key)).flatten(),
                ..v1::VerifyResponse::decode(bytes).unwrap_or_default()
            }
        }
        None => v1::VerifyResponse {
            verdict: verdict.into(),
            key_id: verified.dead.map(|id| id.to_string()).unwrap_or_default(),
            ..Default::default()
        },
    }
}

/// Keeps of each key the response for VALID, too: it depends on the record alone. `uses` collects its use.
pub fn keep(uses: &Arc<Uses>) -> Keep<KeyRecord> {
    let uses = Arc::clone(uses);
    Arc::new(move |record| kept(record, &uses))
}

/// `keep` for the keys that the text of a foreign key names.
pub fn keep_foreign(uses: &Arc<Uses>) -> Keep<ForeignKeys> {
    let uses = Arc::clone(uses);
    Arc::new(move |found| KeptForeign::new(found, |record| kept(record, &uses)))
}

fn kept(record: &KeyRecord, uses: &Arc<Uses>) -> KeptKey {
    let before = v1::VerifyResponse {
        account_id: record.account.to_string(),
        name: record.name.to_string(),
        ..Default::default()
    };
    let after = v1::VerifyResponse {
        metadata: record.metadata.entries().clone(),
        expire_time: record.expire_time.map(time),
        revision: record.revision,
        ..Default::default()
    };
    let answer = KeptAnswer::new(&before.encode_to_vec(), &after.encode_to_vec());
    KeptKey::new(record, answer, uses)
}

/// Appends the response for a key that the fence has admitted and judged VALID. The fields have the order of
/// their tags.
pub(super) fn encode_valid(key: &KeptKey, to: &mut BytesMut) {
    let (before, after) = key.answer().parts();
    to.put_slice(&[1 << 3, VALID]);
    let id = uuid::Uuid::from_bytes(*key.id().as_bytes());
    put_text(2, id.as_hyphenated().encode_lower(&mut [0; 36]), to);
    to.put_slice(before);
    for scope in key.terms().scopes().iter() {
        put_text(5, scope, to);
    }
    to.put_slice(after);
}

/// Appends the text field with this tag.
fn put_text(tag: u8, text: &str, to: &mut BytesMut) {
    to.put_u8(tag << 3 | 2);
    // An id and a scope have less than 128 bytes, so this byte is their whole length.
    to.put_u8(u8::try_from(text.len()).unwrap_or(0));
    to.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::key;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn the_response_for_a_valid_key_has_the_bytes_that_prost_makes() {
        let uses = Arc::new(Uses::new(Counter::default()));
        let plain = key(1);
        let full = KeyRecord {
            account: AccountId::new("account_id", "a".repeat(128)).unwrap(),
            name: SlotName::new("name", "n".repeat(64)).unwrap(),
            scopes: Scopes::new("scopes", vec!["a".to_owned(), "b".repeat(64)]).unwrap(),
            metadata: Metadata::new("metadata", [("k".to_owned(), "v".repeat(200))].into())
                .unwrap(),
            expire_time: Some(Timestamp::from_micros(1_500_000)),
            revision: 1 << 40,
            ..key(2)
        };
        for record in [plain, full] {
            let expected = v1::VerifyResponse {
                verdict: v1::Verdict::Valid.into(),
                key_id: record.id.to_string(),
                account_id: record.account.to_string(),
                name: record.name.to_string(),
                scopes: record.scopes.to_vec(),
                metadata: record.metadata.entries().clone(),
                expire_time: record.expire_time.map(time),
                revision: record.revision,
                cache_entry: None,
            };
            let mut bytes = BytesMut::new();
            encode_valid(&kept(&record, &uses), &mut bytes);
            assert_eq!(bytes, expected.encode_to_vec());
        }
    }
}
