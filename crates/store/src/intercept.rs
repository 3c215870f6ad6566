//! A decorator of stores: [`Intercepted`] passes each call to the store and to its cluster through
//! an [`Interceptor`]. This file is the only place that lists the methods of the contract.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Activation, Actor, Attempt, Audit, AuditEntry, AuditPage, AuditPart, AuditQuery, AuditSeal,
    ChangeNotice, ClaimedEvent, Cluster, CommittedChange, Confirmed, Erasure, EventPlace,
    ExpiryPlace, ExpiryStep, Found, Import, Imported, Issued, KeyChanges, KeyPage, KeyTarget,
    KeyringChecks, KeyringUse, Keys, KnownKey, ListKeys, Log, NewInstance, NewKey, NewToken,
    OnCommit, Outbox, Replay, Result, Retirement, Revocation, RevokeAnswer, SealMove, Sealing,
    Store, StoredKey, TokenRevoked, Tokens, Trimming, UpdateAnswer, Usage, Webhook, WebhookStatus,
};
use keyward_core::fence::{Epoch, Membership, Page, Position, RegistrationId, Start};
use keyward_core::key::{AccountId, KeyId, KeyRecord, KeyUse, Prefix, TokenRecord};
use keyward_crypto::{CheckValue, Digest, KeyName};

/// Code that runs around each call to a store.
pub trait Interceptor: Send + Sync + 'static {
    /// Runs `work`, the method that metrics and logs name `call`, and returns its result.
    fn intercept<T: Send>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send;
}

/// A store, or its cluster, whose calls pass through an interceptor.
pub struct Intercepted<S: ?Sized, I> {
    inner: Arc<S>,
    interceptor: Arc<I>,
}

impl<I: Interceptor> Intercepted<dyn Store, I> {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn Store>, interceptor: Arc<I>) -> Self {
        Self { inner, interceptor }
    }
}

/// The name of a method in metrics and logs.
macro_rules! name_of {
    ($method:ident) => {
        stringify!($method)
    };
    ($method:ident $name:literal) => {
        $name
    };
}

/// Implements traits of the contract. A name after `as` replaces the method's name in metrics and logs:
/// dashboards select by it. The methods after `+` return no `Result`; they bypass the
/// interceptor.
macro_rules! forward {
    ($($trait:ident for $target:ty {
        $($method:ident $(as $name:literal)? ($($argument:ident: $kind:ty),*) -> $answer:ty;)*
        $(+ { $($other:tt)* })?
    })*) => {$(
        #[async_trait]
        impl<I: Interceptor> $trait for Intercepted<$target, I> {
            $(async fn $method(&self, $($argument: $kind),*) -> Result<$answer> {
                let work = self.inner.$method($($argument),*);
                self.interceptor.intercept(name_of!($method $($name)?), work).await
            })*
            $($($other)*)?
        }
    )*};
}

forward! {
    Keys for dyn Store {
        issue(new: NewKey, actor: &Actor) -> Issued;
        import(import: Import, actor: &Actor) -> Imported;
        revoke(revocation: Revocation, actor: &Actor) -> RevokeAnswer;
        update(id: KeyId, changes: KeyChanges, actor: &Actor) -> UpdateAnswer;
        find_keys as "find_key" (digests: &[Digest]) -> Vec<Found<KeyRecord>>;
        end_graces() -> u64;
        get_key(target: &KeyTarget) -> Option<StoredKey>;
        list_keys(query: ListKeys) -> KeyPage;
        predecessor(id: KeyId) -> Option<KeyRecord>;
        erase_account(account: &AccountId, pseudonym: &AccountId, actor: &Actor) -> Erasure;
        note_prefixes(accepted: &[Prefix]) -> Vec<(String, u64)>;
    }
    Usage for dyn Store {
        note_uses(uses: &[(KeyId, KeyUse)]) -> ();
        uses_of(ids: &[KeyId]) -> Vec<(KeyId, KeyUse)>;
    }
    Outbox for dyn Store {
        name_webhooks(webhooks: &[Webhook]) -> ();
        claim_events(webhook: &str, limit: u32, lease: Duration) -> Vec<ClaimedEvent>;
        note_attempts(attempts: &[Attempt]) -> ();
        webhook_status() -> Vec<WebhookStatus>;
        replay_events(replay: &Replay) -> Vec<EventPlace>;
        note_expiring(notice: Duration, place: ExpiryPlace) -> ExpiryStep;
        trim_outbox() -> u64;
    }
    Log for dyn Store {
        start() -> Start;
        tail(applied: u64) -> Page;
        trim() -> u64;
        near_bound() -> Option<Duration>;
        set_near_bound(bound: Option<Duration>) -> ();
    }
    Tokens for dyn Store {
        create_token(new: NewToken, actor: &Actor) -> Option<TokenRecord>;
        find_tokens as "find_token" (digests: &[Digest]) -> Vec<Found<TokenRecord>>;
        list_tokens(include_revoked: bool, expired_within: Option<Duration>, after: Option<KeyId>, limit: u32) -> Vec<TokenRecord>;
        revoke_token(id: KeyId, actor: &Actor) -> Option<TokenRevoked>;
        has_tokens() -> bool;
        has_admin() -> bool;
    }
    Audit for dyn Store {
        record(entry: AuditEntry, actor: &Actor) -> ();
        list_events(query: &AuditQuery) -> AuditPage;
        seal_events(sealing: &Sealing) -> Option<(AuditSeal, usize)>;
        audit_part(known: i64, limit: usize) -> AuditPart;
        trim_events(trimming: &Trimming) -> u64;
    }
    KeyringChecks for dyn Store {
        known_keys() -> Vec<KnownKey>;
        add_check_values(values: &[CheckValue]) -> ();
        note_loaded(values: &[CheckValue]) -> ();
        activate(name: KeyName, actor: &Actor) -> Activation;
        retire(name: KeyName, actor: &Actor) -> Retirement;
        keyring_use() -> KeyringUse;
        sealed_under(seal: u32, after: Option<KeyId>, limit: u32) -> Vec<StoredKey>;
        move_seals(moves: Vec<SealMove>) -> u64;
    }
    Cluster for dyn Cluster {
        register(instance: &NewInstance) -> ();
        heartbeat as "beat" (registration: RegistrationId, acked: Position, applied: u64) -> Option<Page>;
        acknowledge(registration: RegistrationId, acked: Position) -> ();
        report_keyring(registration: RegistrationId, loaded: &[KeyName]) -> ();
        leave(registration: RegistrationId) -> ();
        membership as "roster" () -> Membership;
        settle(epoch: Epoch) -> ();
        reap(registration: RegistrationId, beat: u64) -> bool;
        raise_time_floor() -> Duration;
        confirm(registration: RegistrationId, changes: &[CommittedChange], once_acked: u64) -> Confirmed;
        + {
            async fn next_change_notice(&self) -> ChangeNotice {
                self.inner.next_change_notice().await
            }

            fn set_on_commit(&self, on_commit: OnCommit) {
                self.inner.set_on_commit(on_commit);
            }
        }
    }
}

#[async_trait]
impl<I: Interceptor> Store for Intercepted<dyn Store, I> {
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        let inner = self.inner.cluster()?;
        let interceptor = Arc::clone(&self.interceptor);
        Some(Arc::new(Intercepted { inner, interceptor }))
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
