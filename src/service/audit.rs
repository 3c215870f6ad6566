//! The audit: lists its events, checks its chain, and records calls that are refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::query::{Page, PageQuery, token_after};
use super::{Service, ServiceError};
use crate::auth::{Caller, Denied};
use keyward_core::key::{BootTime, FieldError, KeyId, Timestamp};
use keyward_store::audit::AuditCursor;
use keyward_store::audit_chain::{Fault, FaultKind, Verified, Verifier};
use keyward_store::{Actor, AuditAction, AuditEvent, AuditQuery, AuditSeal};

/// About the most events that one call checks.
const PART: usize = 10_000;
/// How often a refused call of one caller to one RPC is recorded.
const DENIAL_PAUSE: Duration = Duration::from_secs(60);
/// The most refusals that are remembered. More in a minute are not recorded.
const MAX_DENIALS: usize = 1_000;

/// A seal that somebody has noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: i64,
    /// Its MAC.
    pub mac: Vec<u8>,
}

/// The refused calls of the last minute, so that a caller cannot fill the audit.
#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<(KeyId, &'static str), BootTime>>);

impl Denials {
    /// Whether a refusal at `now` is recorded.
    fn is_due(&self, caller: KeyId, method: &'static str, now: BootTime) -> bool {
        let mut recorded = self.0.lock();
        let is_recent = |at: &BootTime| now.since(*at) < DENIAL_PAUSE;
        if recorded.get(&(caller, method)).is_some_and(is_recent) {
            return false;
        }
        if recorded.len() >= MAX_DENIALS {
            recorded.retain(|_, at| is_recent(at));
        }
        let has_room = recorded.len() < MAX_DENIALS;
        if has_room {
            recorded.insert((caller, method), now);
        }
        has_room
    }
}

impl Service {
    /// Lists events, page by page. `query` needs neither start nor limit.
    pub async fn list_audit(
        self: &Arc<Self>,
        mut query: AuditQuery,
        page_query: PageQuery,
    ) -> Result<Page<AuditEvent>, ServiceError> {
        let described = format!("{query:?}");
        let parts: [&[u8]; 2] = [b"audit", described.as_bytes()];
        query.limit = page_query.limit()?;
        query.after = page_query.after(&parts)?.map(cursor);
        let found = self
            .read(|service| async move { Ok(service.store.list_events(&query).await?) })
            .await?;
        let next = found.next.map(|next| token_after(&parts, position(next)));
        Ok(Page {
            items: found.events,
            next: next.unwrap_or_default(),
            at: self.store_time(),
        })
    }

    /// Checks a part of the chain. Also returns the token of the next part: empty if this is the last one, or
    /// has a fault.
    pub async fn verify_audit(
        self: &Arc<Self>,
        head: Option<Head>,
        token: String,
    ) -> Result<(Verified, String), ServiceError> {
        let described = format!("{head:?}");
        let parts: [&[u8]; 2] = [b"verify_audit", described.as_bytes()];
        let page_query = PageQuery { size: 0, token };
        let known = page_query.after(&parts)?.map_or(0, |at| cursor(at).id);
        let part = self
            .read(|service| async move { Ok(service.store.audit_part(known, PART).await?) })
            .await?;
        let is_last = part.is_last;
        let headed = head.map(|head| check_head(&head, &part.seals, known, is_last));
        let keyring = self.keyring.load_full();
        let key_of = |version| keyring.audit_key_of(version);
        let mut verified = Verifier::new(&key_of).verify(part, known);
        if let Some(fault) = self.unproven_erasure(&verified).await? {
            verified.fault = Some(fault);
        }
        if verified.fault.is_none() {
            verified.fault = headed.transpose()?.flatten();
        }
        let next = match &verified.last {
            Some(last) if !is_last && verified.fault.is_none() => {
                let at = AuditCursor {
                    time: Timestamp::default(),
                    id: last.number,
                };
                token_after(&parts, position(at))
            }
            _ => String::new(),
        };
        Ok((verified, next))
    }

    /// The first event whose personal data is gone, although no erasure has its pseudonym.
    async fn unproven_erasure(
        self: &Arc<Self>,
        verified: &Verified,
    ) -> Result<Option<Fault>, ServiceError> {
        let mut proven = HashMap::new();
        for (fault, pseudonym) in &verified.erased {
            let is_proven = match proven.get(pseudonym) {
                Some(is_proven) => *is_proven,
                None => {
                    let query = AuditQuery {
                        account: Some(pseudonym.clone()),
                        action: Some(AuditAction::AccountErase.name().to_owned()),
                        limit: 1,
                        newest_first: true,
                        ..AuditQuery::default()
                    };
                    let found = self
                        .read(|service| async move { Ok(service.store.list_events(&query).await?) })
                        .await?;
                    let is_proven = !found.events.is_empty();
                    proven.insert(pseudonym.clone(), is_proven);
                    is_proven
                }
            };
            if !is_proven {
                return Ok(Some(fault.clone()));
            }
        }
        Ok(None)
    }

    /// Records a call to `method` that was refused, because its caller lacks a role. Does not wait.
    pub fn note_denial(&self, caller: &Caller, method: &'static str, denied: &Denied) {
        let Denied::RoleRequired { role, .. } = denied else {
            return;
        };
        let detail = || format!("{method} requires {}", role.name());
        self.note_refusal(caller.actor(), method, detail);
    }

    /// Records that `actor` was refused `what`, once a minute. Does not wait.
    pub(super) fn note_refusal(
        &self,
        actor: Actor,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) {
        let now = self.clock.boot();
        let is_due = |token| self.denials.is_due(token, what, now);
        if !actor.token.is_some_and(is_due) {
            return;
        }
        let entry = AuditAction::Deny.entry(detail());
        let store = Arc::clone(&self.store);
        self.control.spawn(async move {
            // The store logs its failures.
            let _ = store.record(entry, &actor).await;
        });
    }
}

/// Whether the chain contains a noted seal, as far as `seals` tell.
fn check_head(
    head: &Head,
    seals: &[AuditSeal],
    known: i64,
    is_last: bool,
) -> Result<Option<Fault>, FieldError> {
    let fault = |kind| Fault {
        kind,
        event: None,
        position: None,
        seal: Some(head.number),
    };
    match seals.iter().find(|seal| seal.number == head.number) {
        Some(seal) if seal.mac == head.mac => Ok(None),
        Some(_) => Ok(Some(fault(FaultKind::HeadDiffers))),
        None => match seals {
            [first, ..] if known == 0 && head.number < first.number => Err(FieldError::new(
                "head",
                format!("was trimmed; the first seal is {}", first.number),
            )),
            [.., last] if head.number > last.number && is_last => {
                Ok(Some(fault(FaultKind::EndCut)))
            }
            [] => Ok(Some(fault(FaultKind::EndCut))),
            _ => Ok(None),
        },
    }
}

/// A place in the list, as page tokens hold it.
fn position(at: AuditCursor) -> KeyId {
    let (time, id) = (at.time.as_micros().to_be_bytes(), at.id.to_be_bytes());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&time);
    bytes[8..].copy_from_slice(&id);
    KeyId::from_bytes(bytes)
}

fn cursor(position: KeyId) -> AuditCursor {
    let number = |bytes: &[u8]| {
        let mut whole = [0; 8];
        whole.copy_from_slice(bytes);
        i64::from_be_bytes(whole)
    };
    let (time, id) = position.as_bytes().split_at(8);
    AuditCursor {
        time: Timestamp::from_micros(number(time)),
        id: number(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_list_keeps_its_order_and_value() {
        for (time, id) in [(0, 1), (-5, 7), (i64::MAX, i64::MAX)] {
            let time = Timestamp::from_micros(time);
            let at = AuditCursor { time, id };
            assert_eq!(cursor(position(at)), at);
        }
    }

    #[test]
    fn a_refused_call_is_recorded_once_a_minute_for_each_caller_and_rpc() {
        let denials = Denials::default();
        let (one, two) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
        let at = |seconds: i64| BootTime::from_micros(seconds * 1_000_000);
        assert!(denials.is_due(one, "Issue", at(0)));
        assert!(!denials.is_due(one, "Issue", at(59)));
        assert!(denials.is_due(one, "List", at(59)));
        assert!(denials.is_due(two, "Issue", at(59)));
        assert!(denials.is_due(one, "Issue", at(60)));
        for n in 0..2 * MAX_DENIALS as u64 {
            let mut bytes = [3; 16];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            denials.is_due(KeyId::from_bytes(bytes), "Issue", at(61));
        }
        assert!(denials.0.lock().len() <= MAX_DENIALS);
        assert!(!denials.is_due(KeyId::from_bytes([9; 16]), "Issue", at(62)));
        assert!(denials.is_due(KeyId::from_bytes([9; 16]), "Issue", at(200)));
    }
}
