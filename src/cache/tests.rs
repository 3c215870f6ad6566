//! Lookups against a store that the test controls: how often it is read, and which calls are
//! refused.

mod batches;
mod foreign;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use keyward_core::fence::{Change, Epoch, Page, Stamp, Start};
use keyward_core::key::{AccountId, BootTime, Hint, Metadata, Networks, Role, Scopes, SlotName};
use keyward_ops::{Metrics, Tasks};
use keyward_store::{Control, Found};

const EPOCH: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};
const ID: KeyId = KeyId::from_bytes([7; 16]);
const SHORT: Duration = Duration::from_millis(50);

struct Still;

impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::from_micros(1)
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(1)
    }
}

/// A store whose statements wait for a permit of the test.
struct World {
    fence: Arc<Fence>,
    /// The digests in each statement.
    statements: Mutex<Vec<usize>>,
    answers: Semaphore,
    /// The head that every read returns.
    head: Mutex<u64>,
    /// The entries of the shared cache.
    shared: Mutex<HashMap<Digest, (TokenRecord, Stamp)>>,
    /// Permits for its answers.
    shared_answers: Semaphore,
    refused: AtomicUsize,
}

#[async_trait]
impl SharedCache<TokenRecord> for World {
    async fn get_many(&self, digests: &[Digest]) -> Vec<Option<(TokenRecord, Stamp)>> {
        let _permit = self.shared_answers.acquire().await.unwrap();
        let entries = self.shared.lock();
        digests
            .iter()
            .map(|digest| entries.get(digest).cloned())
            .collect()
    }

    fn put(&self, digest: &Digest, record: &TokenRecord, stamp: Stamp) {
        self.shared.lock().insert(*digest, (record.clone(), stamp));
    }

    fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Records<TokenRecord> for Arc<World> {
    async fn find_all(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>, StoreError> {
        self.statements.lock().push(digests.len());
        self.answers.acquire().await.unwrap().forget();
        if digests.contains(&DAMAGED) {
            return Err(StoreError::Damaged("a row".to_owned()));
        }
        let found = digests.iter().map(|digest| Found {
            record: (*digest == known(1)).then(record),
            stamp: at(*self.head.lock()),
        });
        Ok(found.collect())
    }
}

impl World {
    /// An instance that has applied one change of the record, at revision 1, and is fresh.
    fn new() -> Arc<Self> {
        let start = Start {
            epoch: EPOCH,
            floor: 0,
            applied: 0,
            mark: [0; 8],
            database_time: Timestamp::from_micros(1),
            taken_at: BootTime::from_micros(1),
        };
        let fence = Arc::new(Fence::new(Duration::from_secs(2), 10, start));
        let page = Page {
            epoch: EPOCH,
            head: 1,
            head_mark: [1; 8],
            pruned_to: 0,
            mark_at_applied: Some([0; 8]),
            database_time: Timestamp::from_micros(1),
            rows: vec![Change {
                revision: 1,
                mark: [1; 8],
                id: ID,
            }],
        };
        fence.absorb(Now::read(&Still), &page).unwrap();
        Arc::new(Self {
            fence,
            statements: Mutex::default(),
            answers: Semaphore::new(0),
            head: Mutex::new(1),
            shared: Mutex::default(),
            shared_answers: Semaphore::new(1),
            refused: AtomicUsize::new(0),
        })
    }

    fn lookup(self: &Arc<Self>, limits: ReadLimits) -> Arc<Lookup<TokenRecord>> {
        self.lookup_behind(None, limits)
    }

    /// A lookup with the shared cache.
    fn sharing(self: &Arc<Self>, limits: ReadLimits) -> Arc<Lookup<TokenRecord>> {
        let shared = Arc::clone(self) as Arc<dyn SharedCache<TokenRecord>>;
        self.lookup_behind(Some(shared), limits)
    }

    fn lookup_behind(
        self: &Arc<Self>,
        shared: Option<Arc<dyn SharedCache<TokenRecord>>>,
        limits: ReadLimits,
    ) -> Arc<Lookup<TokenRecord>> {
        let metrics = Metrics::new(&[]);
        let dependencies = Dependencies {
            store: Box::new(Arc::clone(self)),
            keep: Arc::new(TokenRecord::clone),
            shared,
            fence: Arc::clone(&self.fence),
            clock: Arc::new(Still),
            control: Control::new(tokio::runtime::Handle::current()),
            limits,
            refused: metrics.store_permits_refused.clone(),
        };
        let reads = Reads::start(dependencies, &Tasks::default());
        Arc::new(Lookup::new(
            Arc::clone(&self.fence),
            Arc::new(Still),
            Arc::new(L1::new(1 << 20)),
            reads,
            metrics.token_cache.clone(),
        ))
    }

    /// The number of digests that were read.
    fn reads(&self) -> usize {
        self.statements.lock().iter().sum()
    }

    async fn until_reads(&self, count: usize) {
        while self.reads() < count {
            tokio::task::yield_now().await;
        }
    }
}

fn record() -> TokenRecord {
    TokenRecord {
        id: ID,
        name: SlotName::default_slot(),
        roles: [Role::Issuer].into_iter().collect(),
        san: None,
        create_time: Timestamp::from_micros(0),
        expire_time: None,
        revoke_time: None,
        revoked: false,
        revision: 0,
    }
}

/// A key with an id of this number.
pub(crate) fn key(number: u32) -> KeyRecord {
    let mut id = [0; 16];
    id[12..].copy_from_slice(&number.to_be_bytes());
    KeyRecord {
        id: KeyId::from_bytes(id),
        account: AccountId::new("account_id", "42".to_owned()).unwrap(),
        name: SlotName::default_slot(),
        hint: Hint("kw_abcd".to_owned()),
        scopes: Scopes::default(),
        metadata: Metadata::default(),
        networks: Networks::default(),
        recoverable: false,
        disabled: false,
        create_time: Timestamp::from_micros(0),
        expire_time: None,
        revoke_time: None,
        revoked: false,
        revoke_reason: None,
        replaced_by: None,
        revision: 0,
    }
}

pub(super) fn at(revision: u64) -> Stamp {
    Stamp {
        epoch: EPOCH,
        revision,
    }
}

/// Its record makes a statement fail.
const DAMAGED: Digest = Digest::from_bytes([99; 32]);

fn known(n: u8) -> Digest {
    Digest::from_bytes([n; 32])
}

/// Statements for one digest each.
fn limits(readers: usize, waiting: usize) -> ReadLimits {
    ReadLimits {
        readers,
        batch: 1,
        waiting,
        patience: SHORT,
    }
}

fn many() -> ReadLimits {
    limits(10, 10)
}

/// One statement at a time.
fn gathering() -> ReadLimits {
    ReadLimits {
        batch: 64,
        ..limits(1, 100)
    }
}

type Outcome = Result<Option<Admitted<TokenRecord>>, LookupError>;

fn ask(
    lookup: &Arc<Lookup<TokenRecord>>,
    digest: Digest,
    consistency: Consistency,
) -> tokio::task::JoinHandle<Outcome> {
    let lookup = Arc::clone(lookup);
    tokio::spawn(async move { lookup.find(&digest, consistency).await })
}

#[tokio::test]
async fn concurrent_callers_share_one_read_and_later_callers_hit_l1() {
    let world = World::new();
    let lookup = world.lookup(many());
    let callers: Vec<_> = (0..20)
        .map(|_| ask(&lookup, known(1), Consistency::Default))
        .collect();
    world.until_reads(1).await;
    world.answers.add_permits(1);
    for caller in callers {
        assert!(caller.await.unwrap().unwrap().is_some());
    }
    assert!(
        lookup
            .find(&known(1), Consistency::Default)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(world.reads(), 1);
}

#[tokio::test]
async fn a_strong_read_always_reads_the_store_by_itself() {
    let world = World::new();
    let lookup = world.lookup(many());
    let default = ask(&lookup, known(1), Consistency::Default);
    world.until_reads(1).await;
    let strong = ask(&lookup, known(1), Consistency::Strong);
    world.until_reads(2).await;
    world.answers.add_permits(3);
    assert!(default.await.unwrap().is_ok() && strong.await.unwrap().is_ok());
    lookup.find(&known(1), Consistency::Strong).await.unwrap();
    assert_eq!(world.reads(), 3);
}

#[tokio::test]
async fn absence_is_not_cached() {
    let world = World::new();
    let lookup = world.lookup(many());
    world.answers.add_permits(2);
    for _ in 0..2 {
        let found = lookup.find(&known(2), Consistency::Default).await;
        assert!(found.unwrap().is_none());
    }
    assert_eq!(world.reads(), 2);
}

#[tokio::test]
async fn a_read_that_has_begun_needs_no_caller_and_takes_no_more() {
    let world = World::new();
    let lookup = world.lookup(gathering());
    let cancelled = ask(&lookup, known(1), Consistency::Default);
    world.until_reads(1).await;
    cancelled.abort();
    let others = [(); 2].map(|()| ask(&lookup, known(1), Consistency::Default));
    tokio::task::yield_now().await;
    world.answers.add_permits(2);
    for other in others {
        assert!(other.await.unwrap().unwrap().is_some());
    }
    assert_eq!(*world.statements.lock(), [1, 1], "others share the second");
}

#[tokio::test]
async fn a_superseded_record_is_read_three_more_times_then_the_lookup_fails() {
    let world = World::new();
    *world.head.lock() = 0;
    let lookup = world.lookup(many());
    world.answers.add_permits(10);
    let outcome = lookup.find(&known(1), Consistency::Default).await;
    assert!(matches!(outcome, Err(LookupError::NotFresh)));
    assert_eq!(world.reads(), 4);
}

#[tokio::test]
async fn an_instance_that_is_not_fresh_does_not_read() {
    let world = World::new();
    world.fence.stop_being_fresh();
    let lookup = world.lookup(many());
    let outcome = lookup.find(&known(1), Consistency::Default).await;
    assert!(matches!(outcome, Err(LookupError::NotFresh)));
    assert_eq!(world.reads(), 0);
}

/// A flood of unknown keys: some reads run, some wait, and the others are refused at
/// once. Reads that wait too long are refused as well. L1 still answers.
#[tokio::test]
async fn concurrent_misses_are_limited_and_hits_are_not() {
    let world = World::new();
    let lookup = world.lookup(limits(2, 5));
    world.answers.add_permits(1);
    lookup.find(&known(1), Consistency::Default).await.unwrap();
    let flood: Vec<_> = (10..30)
        .map(|n| ask(&lookup, known(n), Consistency::Default))
        .collect();
    world.until_reads(1 + 2).await;
    let hit = lookup.find(&known(1), Consistency::Default).await;
    assert!(hit.unwrap().is_some(), "L1 answers during the flood");
    let mut refused = 0;
    for (n, caller) in flood.into_iter().enumerate() {
        if n >= 2 {
            let outcome = caller.await.unwrap();
            refused += usize::from(matches!(outcome, Err(LookupError::Overloaded)));
        }
    }
    assert_eq!((refused, world.reads()), (18, 3));
    // The permits are free again.
    world.answers.add_permits(3);
    lookup.find(&known(40), Consistency::Default).await.unwrap();
}

#[tokio::test]
async fn an_entry_of_another_instance_saves_the_store_read() {
    let world = World::new();
    world.put(&known(1), &record(), at(1));
    let lookup = world.sharing(many());
    for _ in 0..2 {
        let found = lookup.find(&known(1), Consistency::Default).await.unwrap();
        assert!(found.is_some());
    }
    assert_eq!(world.reads(), 0);
    world.answers.add_permits(1);
    lookup.find(&known(1), Consistency::Strong).await.unwrap();
    assert_eq!(world.reads(), 1, "a strong read asks the store");
}

#[tokio::test]
async fn a_record_is_put_into_the_shared_cache_with_its_admitted_revision() {
    let world = World::new();
    *world.head.lock() = 5;
    world.answers.add_permits(2);
    let lookup = world.sharing(many());
    lookup.find(&known(1), Consistency::Default).await.unwrap();
    let (shared, stamp) = world.shared.lock().get(&known(1)).cloned().unwrap();
    assert_eq!((shared, stamp), (record(), at(5)));
    lookup.find(&known(2), Consistency::Default).await.unwrap();
    assert_eq!(world.shared.lock().len(), 1, "absence is not shared");
}

/// An instance may put an old record after the removal. Its stamp is from before the change.
#[tokio::test]
async fn a_late_put_of_an_old_record_is_refused_and_replaced() {
    let world = World::new();
    for stale in [
        at(0),
        Stamp {
            epoch: Epoch {
                timeline: 2,
                ..EPOCH
            },
            revision: 9,
        },
    ] {
        world.put(&known(1), &record(), stale);
        world.answers.add_permits(1);
        let lookup = world.sharing(many());
        let found = lookup.find(&known(1), Consistency::Default).await.unwrap();
        assert_eq!(found.unwrap().entry.stamp(), at(1), "the store's record");
        assert_eq!(world.shared.lock().get(&known(1)).unwrap().1, at(1));
    }
    assert_eq!(world.reads(), 2);
    assert_eq!(world.refused.load(Ordering::SeqCst), 2);
}

/// A superseded read is neither returned nor cached.
#[tokio::test]
async fn a_superseded_record_is_not_put_into_the_shared_cache() {
    let world = World::new();
    *world.head.lock() = 0;
    world.answers.add_permits(10);
    let lookup = world.sharing(many());
    let refused = lookup.find(&known(1), Consistency::Default).await;
    assert!(matches!(refused, Err(LookupError::NotFresh)), "{refused:?}");
    assert!(world.shared.lock().is_empty());
}
