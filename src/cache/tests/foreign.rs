//! The sets of keys that foreign texts name: one statement for each batch, and what outdates a set.

use super::*;

/// A store with these keys.
#[derive(Default)]
struct Rows {
    keys: Mutex<HashMap<Digest, KeyRecord>>,
    /// The digests in each statement.
    statements: Mutex<Vec<usize>>,
    head: Mutex<u64>,
}

#[async_trait]
impl Records<ForeignKeys> for Arc<Rows> {
    async fn find_all(
        &self,
        digests: &[ForeignDigests],
    ) -> Result<Vec<Found<ForeignKeys>>, StoreError> {
        self.statements.lock().push(digests.len());
        let (keys, head) = (self.keys.lock(), *self.head.lock());
        let sets = digests.iter().map(|digests| {
            let found = digests.iter().map(|digest| keys.get(digest).cloned());
            Found {
                record: Some(ForeignKeys::new(found)),
                stamp: at(head),
            }
        });
        Ok(sets.collect())
    }
}

/// An instance before a store that the test fills.
struct Place {
    world: Arc<World>,
    rows: Arc<Rows>,
    lookup: Lookup<ForeignKeys>,
}

impl Place {
    fn new() -> Self {
        let (world, rows) = (World::new(), Arc::<Rows>::default());
        *rows.head.lock() = 1;
        let metrics = Metrics::new(&[]);
        let uses = Arc::new(Uses::new(metrics.uses.dropped.clone()));
        let keep = move |key: &KeyRecord| KeptKey::new(key, KeptAnswer::default(), &uses);
        let dependencies = Dependencies {
            store: Box::new(Arc::clone(&rows)),
            keep: Arc::new(move |found| KeptForeign::new(found, &keep)),
            shared: None,
            fence: Arc::clone(&world.fence),
            clock: Arc::new(Still),
            control: Control::new(tokio::runtime::Handle::current()),
            limits: many(),
            refused: metrics.store_permits_refused.clone(),
        };
        let lookup = Lookup::new(
            Arc::clone(&world.fence),
            Arc::new(Still),
            Arc::new(L1::new(1 << 20)),
            Reads::start(dependencies, &Tasks::default()),
            metrics.foreign_cache.clone(),
        );
        Self {
            world,
            rows,
            lookup,
        }
    }

    /// The ids of the keys behind these digests, and the number of statements so far.
    async fn find(&self, digests: &[u8]) -> (Vec<KeyId>, usize) {
        let digests = digests.iter().map(|n| known(*n)).collect();
        let found = self.lookup.find(&digests, Consistency::Default).await;
        let entry = found.unwrap().unwrap().entry;
        let keys = entry.kept().keys().iter().map(KeptKey::id).collect();
        (keys, self.rows.statements.lock().len())
    }

    /// Stores a key with this number under this digest.
    fn store(&self, digest: u8, number: u8) -> KeyId {
        let key = key(number.into());
        let id = key.id;
        self.rows.keys.lock().insert(known(digest), key);
        id
    }

    /// Logs a change of `id`, which the instance applies.
    fn change(&self, id: KeyId) {
        let mut head = self.rows.head.lock();
        *head += 1;
        let mark = |revision: u64| [u8::try_from(revision).unwrap(); 8];
        let page = Page {
            epoch: EPOCH,
            head: *head,
            head_mark: mark(*head),
            pruned_to: 0,
            mark_at_applied: Some(mark(*head - 1)),
            database_time: Timestamp::from_micros(1),
            rows: vec![Change {
                revision: *head,
                mark: mark(*head),
                id,
            }],
        };
        self.world.fence.absorb(Now::read(&Still), &page).unwrap();
    }
}

#[tokio::test]
async fn a_set_is_kept_until_one_of_its_keys_changes() {
    let place = Place::new();
    let (newer, older) = (place.store(10, 8), place.store(11, 5));
    for statements in [1, 1] {
        assert_eq!(
            place.find(&[10, 11]).await,
            (vec![older, newer], statements)
        );
    }
    place.change(KeyId::from_bytes([77; 16]));
    assert_eq!(place.find(&[10, 11]).await.1, 1, "another key");
    for (id, statements) in [(older, 2), (newer, 3)] {
        place.change(id);
        assert_eq!(place.find(&[10, 11]).await.1, statements);
    }
    place.change(KeyId::IMPORTS);
    assert_eq!(place.find(&[10, 11]).await.1, 3, "each digest has its key");
}

#[tokio::test]
async fn an_import_outdates_what_had_no_key_under_a_digest() {
    let place = Place::new();
    let id = place.store(10, 5);
    for _ in 0..2 {
        assert_eq!(place.find(&[20, 21]).await, (vec![], 1), "absence is kept");
    }
    assert_eq!(place.find(&[10, 11]).await, (vec![id], 2));
    let other = place.store(11, 6);
    assert_eq!(
        place.find(&[10, 11]).await,
        (vec![id], 2),
        "not committed yet"
    );
    place.change(KeyId::IMPORTS);
    assert_eq!(place.find(&[10, 11]).await, (vec![id, other], 3));
    assert_eq!(place.find(&[20, 21]).await, (vec![], 4));
}

/// After a secret was added to the keyring.
#[tokio::test]
async fn what_was_found_before_a_scheme_was_added_counts_no_more() {
    let place = Place::new();
    let id = place.store(10, 5);
    assert_eq!(place.find(&[10]).await, (vec![id], 1));
    let other = place.store(11, 6);
    assert_eq!(place.find(&[10, 11]).await, (vec![id, other], 2));
}
