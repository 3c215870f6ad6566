//! The environment of a case: a store on a new backend, and helpers that keep cases short.

mod reopen;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward_core::fence::{Page, Start};
use keyward_core::key::{
    Clock, Entropy, Hint, KeyId, KeyRecord, Metadata, Networks, Roles, Scopes, Timestamp,
    TokenRecord,
};
use keyward_crypto::Digest;
use keyward_store::{
    Cluster, CommittedChange, Expiry, Found, Issued, KeyChanges, KeyTarget, ListKeys, NewKey,
    NewToken, OpenError, Revocation, RevokeAnswer, Revoked, Store, StoreError, StoredKey,
    Successor, TimeRepair, TokenRevoked, UpdateAnswer,
};

use crate::doubles::{Counting, ManualClock};
pub(crate) use crate::hand::{ByHand, by_hand};
pub(crate) use crate::values::*;

/// The data of one store.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Opens the store. Creates it if it does not exist.
    async fn open(
        &self,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Arc<dyn Store>, OpenError>;

    /// A connection for manual SQL.
    async fn connect(&self) -> Box<dyn ByHand>;

    /// The store as an operator repairs its time, while no instance uses it.
    async fn time_repair(
        &self,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Box<dyn TimeRepair>;

    /// Bytes as an SQL literal. 16 bytes are an id.
    fn bytes(&self, bytes: &[u8]) -> String;

    /// A time, in microseconds since the Unix epoch, as an SQL expression.
    fn time(&self, micros: i64) -> String;

    /// SQL expressions of a new random id and a new random digest.
    fn random_bytes(&self) -> (&'static str, &'static str);

    /// A microsecond, as an SQL expression that can be added to a time.
    fn tick(&self) -> &'static str;

    /// Makes the database's clock follow the test's, if there is one.
    fn follow(&self, _clock: &ManualClock) {}
}

/// A store and its environment.
pub(crate) struct World {
    backend: Box<dyn Backend>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    entropy: Counting,
}

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);

impl World {
    pub(crate) async fn new(backend: impl Backend) -> Self {
        let (clock, entropy) = (Arc::new(ManualClock::new()), Counting::default());
        backend.follow(&clock);
        let store = backend.open(clock.clone(), &entropy).await.unwrap();
        Self {
            backend: Box::new(backend),
            store,
            clock,
            entropy,
        }
    }

    /// The instances of a shared store.
    pub(crate) fn cluster(&self) -> Arc<dyn Cluster> {
        self.store.cluster().unwrap()
    }

    // Manual SQL.

    pub(crate) async fn connect(&self) -> Box<dyn ByHand> {
        self.backend.connect().await
    }

    /// Runs SQL over another connection. Returns the number of changed rows.
    pub(crate) async fn by_hand(&self, sql: &str) -> u64 {
        self.try_by_hand(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs SQL that the schema may refuse, over another connection.
    pub(crate) async fn try_by_hand(&self, sql: &str) -> Result<u64, String> {
        self.connect().await.run(sql).await
    }

    /// Asserts that the schema refuses `sql` with an error that contains `message`.
    #[track_caller]
    pub(crate) fn refused(
        &self,
        sql: impl Into<String>,
        message: &'static str,
    ) -> impl Future<Output = ()> {
        let (sql, caller) = (sql.into(), std::panic::Location::caller());
        async move {
            let error = self
                .try_by_hand(&sql)
                .await
                .expect_err(&format!("{caller}: {sql}"));
            assert!(error.contains(message), "{caller}: {sql}: {error}");
        }
    }

    pub(crate) async fn read(&self, sql: &str) -> Vec<String> {
        self.connect().await.read(sql).await
    }

    /// Counts the rows of `from`: a table and its conditions.
    pub(crate) async fn count(&self, from: &str) -> usize {
        self.read(&format!("SELECT CAST(count(*) AS TEXT) FROM {from}"))
            .await[0]
            .parse()
            .unwrap()
    }

    /// An id as an SQL literal.
    pub(crate) fn id(&self, id: KeyId) -> String {
        self.bytes(id.as_bytes())
    }

    pub(crate) fn bytes(&self, bytes: &[u8]) -> String {
        self.backend.bytes(bytes)
    }

    /// SQL expressions of a new random id and a new random digest.
    pub(crate) fn random_bytes(&self) -> (&'static str, &'static str) {
        self.backend.random_bytes()
    }

    /// A time as an SQL expression.
    pub(crate) fn time(&self, micros: i64) -> String {
        self.backend.time(micros)
    }

    /// An SQL expression: a microsecond later than `column`.
    pub(crate) fn a_tick_after(&self, column: &str) -> String {
        format!("{column} + {}", self.backend.tick())
    }

    /// The audit entries: action, actor and detail.
    pub(crate) async fn audit(&self) -> Vec<String> {
        self.read(
            "SELECT action || ' ' || actor || ' ' || coalesce(detail, '-') FROM audit ORDER BY id",
        )
        .await
    }

    // Through the store.

    pub(crate) async fn head(&self) -> u64 {
        self.tail(0).await.head
    }

    /// The store's time.
    pub(crate) async fn now(&self) -> Timestamp {
        self.tail(0).await.database_time
    }

    pub(crate) async fn tail(&self, applied: u64) -> Page {
        self.store.tail(applied).await.unwrap()
    }

    /// The keys of the first page.
    pub(crate) async fn listed(&self, query: ListKeys) -> Vec<KeyRecord> {
        self.store.list_keys(query).await.unwrap().keys
    }

    /// A new key for a slot, without optional fields.
    pub(crate) fn plain_key(&self, account: &str, name: &str) -> NewKey {
        let Successor {
            id,
            digest,
            generation,
            hint,
            sealed,
            ..
        } = self.successor();
        NewKey {
            id,
            digest,
            generation,
            hint,
            sealed,
            account: self::account(account),
            name: slot(name),
            scopes: Scopes::default(),
            metadata: Metadata::default(),
            networks: Networks::default(),
            expiry: Expiry::Never,
        }
    }

    /// A new recoverable key with all optional fields.
    pub(crate) async fn full_key(&self, account: &str, name: &str) -> NewKey {
        NewKey {
            sealed: Some(sealed(7)),
            scopes: scopes(&["orders:read", "orders:write"]),
            metadata: metadata(&[("team", "payments ✓"), ("empty", "")]),
            networks: networks(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]),
            expiry: Expiry::At(self.now().await.plus(30 * DAY)),
            ..self.plain_key(account, name)
        }
    }

    /// A new secret, not stored yet and not recoverable.
    pub(crate) fn successor(&self) -> Successor {
        Successor {
            id: KeyId::draw(self.clock.wall(), &self.entropy),
            digest: self.digest(),
            generation: 1,
            hint: Hint("kw_abcd".to_owned()),
            sealed: None,
            lifetime: None,
        }
    }

    /// A digest that is not stored.
    pub(crate) fn digest(&self) -> Digest {
        let mut bytes = [0; 32];
        self.entropy.fill(&mut bytes);
        Digest::from_bytes(bytes)
    }

    pub(crate) async fn start(&self) -> Start {
        self.store.start().await.unwrap()
    }

    /// Raises the floor of a shared store's time to the clock. An embedded store does so by itself.
    pub(crate) async fn raise_time_floor(&self) -> Duration {
        match self.store.cluster() {
            Some(cluster) => cluster.raise_time_floor().await.unwrap(),
            None => Duration::ZERO,
        }
    }

    pub(crate) async fn end_graces(&self) -> u64 {
        self.store.end_graces().await.unwrap()
    }

    pub(crate) async fn trim(&self) -> u64 {
        self.store.trim().await.unwrap()
    }

    pub(crate) async fn find(&self, digest: &Digest) -> Found<KeyRecord> {
        find(&*self.store, digest).await.unwrap()
    }

    pub(crate) async fn find_token(&self, digest: &Digest) -> Found<TokenRecord> {
        find_token(&*self.store, digest).await.unwrap()
    }

    /// Issues a key, or finds the one that its slot holds.
    pub(crate) async fn issue_or_get(&self, new: NewKey) -> Issued {
        self.store.issue(new, &actor()).await.unwrap()
    }

    pub(crate) async fn issue(&self, new: NewKey) -> KeyRecord {
        let issued = self.issue_or_get(new).await;
        assert!(issued.created);
        issued.key.record
    }

    /// Issues a plain key in the slot `default`.
    pub(crate) async fn plain(&self, account: &str) -> KeyRecord {
        self.issue(self.plain_key(account, "default")).await
    }

    /// Issues a plain key that has already expired.
    pub(crate) async fn expired(&self, account: &str) -> KeyRecord {
        let expiry = Expiry::At(self.now().await);
        self.issue(NewKey {
            expiry,
            ..self.plain_key(account, "default")
        })
        .await
    }

    pub(crate) async fn get(&self, id: KeyId) -> StoredKey {
        self.store
            .get_key(&KeyTarget::Id(id))
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn record(&self, id: KeyId) -> KeyRecord {
        self.get(id).await.record
    }

    pub(crate) async fn try_revoke(&self, revocation: Revocation) -> RevokeAnswer {
        self.store.revoke(revocation, &actor()).await.unwrap()
    }

    pub(crate) async fn revoke(&self, revocation: Revocation) -> Revoked {
        done(self.try_revoke(revocation).await)
    }

    /// Replaces one key at once.
    pub(crate) async fn replace(&self, id: KeyId) -> Revoked {
        self.revoke(replace(id, self.successor(), Duration::ZERO))
            .await
    }

    pub(crate) async fn try_update(&self, id: KeyId, changes: KeyChanges) -> UpdateAnswer {
        self.store.update(id, changes, &actor()).await.unwrap()
    }

    pub(crate) async fn update(
        &self,
        id: KeyId,
        changes: KeyChanges,
    ) -> (KeyRecord, CommittedChange) {
        match self.try_update(id, changes).await {
            UpdateAnswer::Done(updated) => (updated.record, updated.committed.read_in(None)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn new_token(&self, name: &str) -> NewToken {
        let Successor {
            id,
            digest,
            generation,
            ..
        } = self.successor();
        NewToken {
            id,
            digest,
            generation: Some(generation),
            san: None,
            name: slot(name),
            roles: Roles::all(),
            expiry: Expiry::Never,
        }
    }

    pub(crate) async fn create_token(&self, new: NewToken) -> TokenRecord {
        let created = self.store.create_token(new, &actor()).await.unwrap();
        created.expect("the digest is free")
    }

    pub(crate) async fn token(&self, name: &str) -> TokenRecord {
        self.create_token(self.new_token(name)).await
    }

    pub(crate) async fn revoke_token(&self, id: KeyId) -> TokenRevoked {
        let revoked = self.store.revoke_token(id, &actor()).await.unwrap();
        let revoked = revoked.unwrap();
        TokenRevoked {
            committed: revoked.committed.read_in(None),
            ..revoked
        }
    }

    /// Up to ten tokens, revoked tokens too.
    pub(crate) async fn tokens(&self) -> Vec<TokenRecord> {
        self.store.list_tokens(true, None, None, 10).await.unwrap()
    }

    pub(crate) async fn has_tokens(&self) -> bool {
        self.store.has_tokens().await.unwrap()
    }

    pub(crate) async fn has_admin(&self) -> bool {
        self.store.has_admin().await.unwrap()
    }
}

/// Asserts that the store refused a change that breaks its own rules.
#[track_caller]
pub(crate) fn assert_damaged<T: std::fmt::Debug>(outcome: &Result<T, StoreError>) {
    assert!(
        matches!(outcome, Err(StoreError::Damaged(_))),
        "{outcome:?}"
    );
}

/// Runs `count` calls concurrently and returns their results.
pub(crate) async fn at_once<T: Send + 'static, F>(count: usize, call: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let calls: Vec<_> = (0..count)
        .map(|number| tokio::spawn(call(number)))
        .collect();
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await.unwrap());
    }
    results
}

/// The result of a call that revoked, without the epoch that only a repeated call reads in.
pub(crate) fn done(answer: RevokeAnswer) -> Revoked {
    match answer {
        RevokeAnswer::Done(revoked) => Revoked {
            committed: revoked.committed.read_in(None),
            ..*revoked
        },
        other => panic!("{other:?}"),
    }
}
