//! A store whose answers come late, when the test says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::fence::{Membership, Page, RegistrationId, Start};
use keyward_core::key::{KeyId, KeyRecord, TokenRecord};
use keyward_crypto::{CheckValue, Digest};
use keyward_store::{
    Actor, Audit, AuditEntry, ChangeNotice, CommittedChange, Confirmed, Found, Issued, KeyChanges,
    KeyTarget, KeyringChecks, Keys, ListKeys, Log, Members, NewInstance, NewKey, NewToken,
    OnCommit, Result, Revocation, RevokeAnswer, Store, StoredKey, TokenRevoked, Tokens,
    UpdateAnswer,
};
use tokio::sync::{Semaphore, watch};

/// A place in a call where it can be held; open at first.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    held: watch::Sender<usize>,
    tickets: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: watch::Sender::new(true),
            held: watch::Sender::new(0),
            tickets: Semaphore::new(0),
        }
    }
}

impl Gate {
    /// Holds all who come from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets everybody go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Lets one go on.
    pub fn admit_one(&self) {
        self.tickets.add_permits(1);
    }

    /// Waits until somebody is held.
    pub async fn is_holding(&self) {
        // The sender lives as long as this gate.
        let _ = self.held.subscribe().wait_for(|held| *held > 0).await;
    }

    async fn pass(&self) {
        let mut open = self.open.subscribe();
        if *open.borrow_and_update() {
            return;
        }
        self.held.send_modify(|held| *held += 1);
        tokio::select! {
            _ = open.wait_for(|open| *open) => {}
            ticket = self.tickets.acquire() => {
                ticket.expect("the tickets are never closed").forget();
            }
        }
        self.held.send_modify(|held| *held -= 1);
    }
}

/// What a test does to a [`StallingStore`].
#[derive(Debug, Default)]
pub struct Faults {
    /// Before a tail reads: the store does not answer.
    pub tail: Gate,
    /// After a tail has read: the page is late, and old when it comes.
    pub page: Gate,
    /// After the record of a key was read: it is late, and old when it comes.
    pub record: Gate,
    page_delay: AtomicU64,
}

impl Faults {
    /// Makes every page come so much later than it was read.
    pub fn delay_pages(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.page_delay.store(millis, Ordering::SeqCst);
    }

    /// Holds a page back after it was read.
    async fn late(&self) {
        self.page.pass().await;
        let delay = self.page_delay.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

/// Delegates to a store, through the gates of its [`Faults`].
pub struct StallingStore {
    inner: Arc<dyn Store>,
    faults: Arc<Faults>,
}

impl StallingStore {
    /// Around `inner`, for `Local::start_with`.
    pub fn around(inner: Arc<dyn Store>, faults: Arc<Faults>) -> Arc<dyn Store> {
        Arc::new(Self { inner, faults })
    }
}

#[async_trait]
impl Log for StallingStore {
    async fn start(&self) -> Result<Start> {
        self.inner.start().await
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        self.faults.tail.pass().await;
        let page = self.inner.tail(applied).await;
        self.faults.late().await;
        page
    }

    async fn trim(&self) -> Result<u64> {
        self.inner.trim().await
    }
}

#[async_trait]
impl Members for StallingStore {
    fn shared(&self) -> bool {
        self.inner.shared()
    }

    async fn register(&self, instance: &NewInstance) -> Result<()> {
        self.inner.register(instance).await
    }

    async fn heartbeat(&self, registration: RegistrationId, applied: u64) -> Result<Option<Page>> {
        self.faults.tail.pass().await;
        let page = self.inner.heartbeat(registration, applied).await;
        self.faults.late().await;
        page
    }

    async fn acknowledge(&self, registration: RegistrationId, applied: u64) -> Result<()> {
        self.inner.acknowledge(registration, applied).await
    }

    async fn leave(&self, registration: RegistrationId) -> Result<()> {
        self.inner.leave(registration).await
    }

    async fn membership(&self) -> Result<Option<Membership>> {
        self.inner.membership().await
    }

    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool> {
        self.inner.reap(registration, beat).await
    }

    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
    ) -> Result<Option<Confirmed>> {
        self.inner.confirm(registration, changes).await
    }

    async fn hint(&self) -> ChangeNotice {
        self.inner.hint().await
    }

    fn set_on_commit(&self, on_commit: OnCommit) {
        self.inner.set_on_commit(on_commit);
    }
}

#[async_trait]
impl Keys for StallingStore {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        self.inner.issue(new, actor).await
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        self.inner.revoke(revocation, actor).await
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        self.inner.update(id, changes, actor).await
    }

    async fn find_key(&self, digest: &Digest) -> Result<Found<KeyRecord>> {
        let found = self.inner.find_key(digest).await;
        self.faults.record.pass().await;
        found
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        self.inner.get_key(target).await
    }

    async fn list_keys(&self, query: ListKeys) -> Result<Vec<KeyRecord>> {
        self.inner.list_keys(query).await
    }
}

#[async_trait]
impl Tokens for StallingStore {
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<TokenRecord> {
        self.inner.create_token(new, actor).await
    }

    async fn find_token(&self, digest: &Digest) -> Result<Found<TokenRecord>> {
        self.inner.find_token(digest).await
    }

    async fn list_tokens(
        &self,
        include_revoked: bool,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>> {
        self.inner.list_tokens(include_revoked, after, limit).await
    }

    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>> {
        self.inner.revoke_token(id, actor).await
    }

    async fn has_tokens(&self) -> Result<bool> {
        self.inner.has_tokens().await
    }

    async fn has_admin(&self) -> Result<bool> {
        self.inner.has_admin().await
    }
}

#[async_trait]
impl Audit for StallingStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        self.inner.record(entry, actor).await
    }
}

#[async_trait]
impl KeyringChecks for StallingStore {
    async fn check_values(&self) -> Result<Vec<CheckValue>> {
        self.inner.check_values().await
    }

    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()> {
        self.inner.add_check_values(values).await
    }

    async fn active_generation(&self) -> Result<Option<u32>> {
        self.inner.active_generation().await
    }

    async fn activate_generation(&self, number: u32) -> Result<()> {
        self.inner.activate_generation(number).await
    }
}

#[async_trait]
impl Store for StallingStore {
    async fn close(&self) {
        self.inner.close().await;
    }
}
