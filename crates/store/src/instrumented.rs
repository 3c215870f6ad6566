//! A store that is watched: one span and one duration for each call, around any backend.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::Instrument;

use super::{
    Actor, Audit, AuditEntry, ChangeNotice, CommittedChange, Confirmed, Found, Issued, KeyChanges,
    KeyTarget, KeyringChecks, Keys, ListKeys, Log, Members, NewInstance, NewKey, NewToken,
    OnCommit, Result, Revocation, RevokeAnswer, Store, StoreError, StoredKey, TokenRevoked, Tokens,
    UpdateAnswer,
};
use keyward_core::fence::{Membership, Page, RegistrationId, Start};
use keyward_core::key::{BootTime, Clock, KeyId, KeyRecord, TokenRecord};
use keyward_crypto::{CheckValue, Digest};
use keyward_ops::Metrics;

/// How long no call may fail until the store counts as well again.
const WELL: Duration = Duration::from_secs(1);
/// How often an outage that goes on is told again.
const REMIND: Duration = Duration::from_secs(60);

/// Watches every call of `inner`.
pub struct Instrumented<S> {
    inner: S,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Whether there is an outage, so that a call that went well need not look closer.
    failing: AtomicBool,
    outage: Mutex<Option<Outage>>,
}

/// Calls fail: told when that begins and ends, not for each of them.
#[derive(Clone, Copy, Debug)]
struct Outage {
    failed: u64,
    told: BootTime,
    last: BootTime,
}

impl<S> Instrumented<S> {
    /// Watches `inner`, with durations by `clock`.
    pub fn new(inner: S, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            inner,
            clock,
            metrics,
            failing: AtomicBool::new(false),
            outage: Mutex::default(),
        }
    }

    fn note_failure(&self, call: &'static str, error: &StoreError, now: BootTime) {
        let mut outage = self.outage.lock();
        let begins = outage.is_none();
        let current = outage.get_or_insert(Outage {
            failed: 0,
            told: now,
            last: now,
        });
        current.failed += 1;
        current.last = now;
        self.failing.store(true, Ordering::Relaxed);
        if begins {
            tracing::warn!(call, %error, "a store call failed");
        } else if now.since(current.told) >= REMIND {
            current.told = now;
            tracing::warn!(call, failed = current.failed, %error, "store calls go on failing");
        }
    }

    fn note_success(&self, now: BootTime) {
        let mut outage = self.outage.lock();
        if let Some(over) = outage.take_if(|outage| now.since(outage.last) >= WELL) {
            self.failing.store(false, Ordering::Relaxed);
            tracing::info!(failed = over.failed, "store calls succeed again");
        }
    }

    async fn watch<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let begun = self.clock.boot();
        let span = tracing::debug_span!("store", call, outcome = tracing::field::Empty);
        let result = work.instrument(span.clone()).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::OutcomeUnknown(_)) => "unknown",
            Err(StoreError::Damaged(_)) => "damaged",
        };
        span.record("outcome", outcome);
        let ended = self.clock.boot();
        self.metrics.store_call(call, outcome, ended.since(begun));
        match &result {
            Err(error) => self.note_failure(call, error, ended),
            Ok(_) if self.failing.load(Ordering::Relaxed) => self.note_success(ended),
            Ok(_) => {}
        }
        result
    }
}

impl<S> std::fmt::Debug for Instrumented<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instrumented")
    }
}

#[async_trait]
impl<S: Store> Keys for Instrumented<S> {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        self.watch("issue", self.inner.issue(new, actor)).await
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        self.watch("revoke", self.inner.revoke(revocation, actor))
            .await
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        self.watch("update", self.inner.update(id, changes, actor))
            .await
    }

    async fn find_key(&self, digest: &Digest) -> Result<Found<KeyRecord>> {
        self.watch("find_key", self.inner.find_key(digest)).await
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        self.watch("get_key", self.inner.get_key(target)).await
    }

    async fn list_keys(&self, query: ListKeys) -> Result<Vec<KeyRecord>> {
        self.watch("list_keys", self.inner.list_keys(query)).await
    }
}

#[async_trait]
impl<S: Store> Log for Instrumented<S> {
    async fn start(&self) -> Result<Start> {
        self.watch("start", self.inner.start()).await
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        self.watch("tail", self.inner.tail(applied)).await
    }

    async fn trim(&self) -> Result<u64> {
        self.watch("trim", self.inner.trim()).await
    }
}

#[async_trait]
impl<S: Store> Tokens for Instrumented<S> {
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<TokenRecord> {
        self.watch("create_token", self.inner.create_token(new, actor))
            .await
    }

    async fn find_token(&self, digest: &Digest) -> Result<Found<TokenRecord>> {
        self.watch("find_token", self.inner.find_token(digest))
            .await
    }

    async fn list_tokens(
        &self,
        include_revoked: bool,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>> {
        self.watch(
            "list_tokens",
            self.inner.list_tokens(include_revoked, after, limit),
        )
        .await
    }

    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>> {
        self.watch("revoke_token", self.inner.revoke_token(id, actor))
            .await
    }

    async fn has_tokens(&self) -> Result<bool> {
        self.watch("has_tokens", self.inner.has_tokens()).await
    }

    async fn has_admin(&self) -> Result<bool> {
        self.watch("has_admin", self.inner.has_admin()).await
    }
}

#[async_trait]
impl<S: Store> Audit for Instrumented<S> {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        self.watch("record", self.inner.record(entry, actor)).await
    }
}

#[async_trait]
impl<S: Store> KeyringChecks for Instrumented<S> {
    async fn check_values(&self) -> Result<Vec<CheckValue>> {
        self.watch("check_values", self.inner.check_values()).await
    }

    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()> {
        self.watch("add_check_values", self.inner.add_check_values(values))
            .await
    }

    async fn active_generation(&self) -> Result<Option<u32>> {
        self.watch("active_generation", self.inner.active_generation())
            .await
    }

    async fn activate_generation(&self, number: u32) -> Result<()> {
        self.watch(
            "activate_generation",
            self.inner.activate_generation(number),
        )
        .await
    }
}

#[async_trait]
impl<S: Store> Members for Instrumented<S> {
    fn shared(&self) -> bool {
        self.inner.shared()
    }

    async fn register(&self, instance: &NewInstance) -> Result<()> {
        self.watch("register", self.inner.register(instance)).await
    }

    async fn heartbeat(&self, registration: RegistrationId, applied: u64) -> Result<Option<Page>> {
        self.watch("beat", self.inner.heartbeat(registration, applied))
            .await
    }

    async fn acknowledge(&self, registration: RegistrationId, applied: u64) -> Result<()> {
        self.watch("acknowledge", self.inner.acknowledge(registration, applied))
            .await
    }

    async fn leave(&self, registration: RegistrationId) -> Result<()> {
        self.watch("leave", self.inner.leave(registration)).await
    }

    async fn membership(&self) -> Result<Option<Membership>> {
        self.watch("membership", self.inner.membership()).await
    }

    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool> {
        self.watch("reap", self.inner.reap(registration, beat))
            .await
    }

    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
    ) -> Result<Option<Confirmed>> {
        self.watch("confirm", self.inner.confirm(registration, changes))
            .await
    }

    async fn hint(&self) -> ChangeNotice {
        self.inner.hint().await
    }

    fn set_on_commit(&self, on_commit: OnCommit) {
        self.inner.set_on_commit(on_commit);
    }
}

#[async_trait]
impl<S: Store> Store for Instrumented<S> {
    async fn close(&self) {
        self.inner.close().await;
    }
}
