//! One instance: the real fence, replication, caches and service on a store in memory.

use std::sync::Arc;
use std::time::Duration;

use keyward::auth::{Caller, Callers, Denied};
use keyward::cache::{
    Dependencies, ForeignKeys, Keep, L1, Lookup, ReadLimits, Reads, Record, Records, SharedCache,
    Uses,
};
use keyward::replication::{
    Barrier, NearCaches, NearLimits, Registration, StoreTime, Tail, end_graces,
    wake_on_store_notices, watch_membership,
};
use keyward::service::Service;
use keyward::webhooks::Webhooks;
use keyward_core::fence::{Fence, Now, Settling};
use keyward_core::key::{
    Clock, ForeignFormat, KeyRecord, Prefix, SecretText, TOKEN_PREFIX, TokenRecord,
};
use keyward_guard::LogLimit;
use keyward_ops::{CacheMetrics, Tasks};
use keyward_store::{Control, Store};
use keyward_store_memory::MemoryStore;
use keyward_testkit::Random;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock::SimClock;
use crate::link::Link;
use crate::world::World;

/// The place of an instance: what stays the same over its restarts.
pub(crate) struct Seat {
    pub(crate) clock: Arc<SimClock>,
    pub(crate) max_staleness: Duration,
    /// The number of tombstones above which the oldest are pruned.
    pub(crate) max_tombstones: usize,
    /// Whether L1 keeps entries.
    pub(crate) has_l1: bool,
}

/// A running process.
pub(crate) struct Instance {
    pub(crate) index: usize,
    pub(crate) link: Arc<Link>,
    pub(crate) fence: Arc<Fence>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) service: Arc<Service>,
    pub(crate) near: Arc<NearCaches>,
    callers: Callers,
    stop: CancellationToken,
}

/// What the components of an instance share.
struct Parts {
    world: Arc<World>,
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    control: Control,
    l1: usize,
}

impl Instance {
    /// Starts a process in a seat, as `app` does. `link` connects it.
    pub(crate) async fn start(
        world: &Arc<World>,
        index: usize,
        link: Arc<Link>,
        random: Random,
    ) -> Result<Self, String> {
        let seat = &world.seats[index];
        let clock: Arc<dyn Clock> = seat.clock.clone();
        let store = MemoryStore::open(Arc::clone(&link), Arc::clone(&clock));
        let store: Arc<dyn Store> = Arc::new(store);
        let start = store.start().await.map_err(|error| error.to_string())?;
        let parts = Parts {
            fence: Arc::new(Fence::new(seat.max_staleness, seat.max_tombstones, start)),
            world: Arc::clone(world),
            store,
            clock,
            control: Control::new(Handle::current()),
            l1: if seat.has_l1 { 1 << 20 } else { 0 },
        };
        parts.run(index, link, random).await
    }

    /// Stops the process in order: its tail ends freshness and deletes its row.
    pub(crate) fn stop(&self) {
        self.near.leave();
        self.stop.cancel();
    }

    /// Ends the process at once.
    pub(crate) fn kill(&self) {
        self.link.change(|weather| weather.is_dead = true);
    }

    /// Whether it admits records now.
    pub(crate) fn is_fresh(&self, world: &World) -> bool {
        let now = Now::read(&*world.seats[self.index].clock);
        self.fence.is_fresh(now)
    }

    /// Authenticates a caller by its token.
    pub(crate) async fn authenticate(&self, token: &SecretText) -> Result<Caller, Denied> {
        let value = format!("Bearer {}", token.expose());
        let values = std::iter::once(value.as_bytes());
        self.callers.authenticate(values, None).await
    }
}

impl Parts {
    async fn run(self, index: usize, link: Arc<Link>, random: Random) -> Result<Instance, String> {
        let (world, metrics, stop) = (&self.world, &self.world.metrics, CancellationToken::new());
        let entropy: Arc<Random> = Arc::new(random);
        let cluster = self.store.cluster().ok_or("the store is shared")?;
        let members = metrics.members.clone();
        let limits = NearLimits {
            max_staleness: self.fence.max_staleness().mul_f64(1.0 / 1.02),
            count: 10,
        };
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let near = NearCaches::start(&self.store, fence, clock, limits, metrics.near.clone()).await;
        let near = Arc::new(near.map_err(|error| error.to_string())?);
        let registration = Registration::new(
            Arc::clone(&cluster),
            format!("instance {index}"),
            self.fence.max_staleness(),
            Arc::clone(&world.keyring),
            entropy.clone(),
            Arc::clone(&near),
            members.clone(),
        );
        let tail = Arc::new(Tail::new(
            Arc::clone(&self.store),
            Arc::clone(&self.fence),
            Arc::clone(&self.clock),
            Some(registration),
            Arc::clone(&world.keyring),
            Arc::clone(&near),
            metrics.beats.clone(),
        ));
        tail.catch_up().await?;
        let settling = Arc::new(Mutex::new(Settling::new(world.failover_loses_nothing)));
        let (barrier, confirmer) = Barrier::new(
            Some(Arc::clone(&cluster)),
            Arc::clone(&settling),
            Arc::clone(&tail),
            Arc::clone(&self.fence),
            Arc::clone(&self.clock),
            stop.clone(),
            metrics.revoke.clone(),
        );
        tokio::spawn(confirmer.ok_or("the store is shared")?);
        let running = Arc::clone(&tail);
        let stopped = stop.clone();
        tokio::spawn(async move { running.run(stopped).await });
        let notices = wake_on_store_notices(
            Arc::clone(&cluster),
            Arc::clone(&tail),
            members.clone(),
            stop.clone(),
        );
        tokio::spawn(notices);
        let clock = Arc::clone(&self.clock);
        let tailing = Arc::clone(&tail);
        let store_time = StoreTime::new(Arc::clone(&self.fence), Arc::clone(&clock));
        tokio::spawn(Arc::new(store_time).keep(Arc::clone(&cluster), stop.clone()));
        tokio::spawn(end_graces(Arc::clone(&self.store), stop.clone()));
        let (roster, ends) = (Arc::default(), stop.clone());
        tokio::spawn(watch_membership(
            cluster, settling, tailing, roster, clock, members, ends,
        ));
        let token_prefix = Prefix::new(TOKEN_PREFIX).map_err(|error| error.to_string())?;
        let keyring = Arc::clone(&world.keyring);
        let callers = Callers::new(token_prefix.clone(), Arc::clone(&keyring), self.tokens());
        let (timer, random) = (Arc::clone(&self.clock), Arc::clone(&entropy));
        let service = Service {
            webhooks: Arc::new(Webhooks::new(&[], Duration::ZERO, timer, random)?),
            store: Arc::clone(&self.store),
            fence: Arc::clone(&self.fence),
            keys: self.keys(),
            foreign_keys: self.foreign_keys(),
            uses: self.uses(),
            foreign_formats: vec![ForeignFormat::parse("uuid")?],
            ambiguous: LogLimit::default(),
            keyring,
            prefixes: vec![Prefix::new("kw").map_err(|error| error.to_string())?],
            token_prefix,
            barrier,
            near: Arc::clone(&near),
            imports: tokio::sync::Mutex::default(),
            control: self.control.clone(),
            clock: Arc::clone(&self.clock),
            entropy,
            metrics: Arc::clone(metrics),
            recent: Arc::default(),
            denials: keyward::service::Denials::default(),
            reveals: keyward::service::Reveals::new(None),
            forbid_recoverable: false,
            max_key_age: None,
        };
        Ok(Instance {
            index,
            link,
            fence: self.fence,
            tail,
            service: Arc::new(service),
            near,
            callers,
            stop,
        })
    }

    fn keys(&self) -> Lookup<KeyRecord> {
        let shared = self.world.shared_cache.clone();
        let shared = shared.map(|shared| shared as Arc<dyn SharedCache<KeyRecord>>);
        self.lookup(
            keyward::grpc::keep(&self.uses()),
            shared,
            self.world.metrics.key_cache.clone(),
        )
    }

    fn foreign_keys(&self) -> Lookup<ForeignKeys> {
        self.lookup(
            keyward::grpc::keep_foreign(&self.uses()),
            None,
            self.world.metrics.foreign_cache.clone(),
        )
    }

    /// Nobody collects it.
    fn uses(&self) -> Arc<Uses> {
        Arc::new(Uses::new(self.world.metrics.uses.dropped.clone()))
    }

    fn tokens(&self) -> Lookup<TokenRecord> {
        self.lookup(
            Arc::new(TokenRecord::clone),
            None,
            self.world.metrics.token_cache.clone(),
        )
    }

    fn lookup<R: Record>(
        &self,
        keep: Keep<R>,
        shared: Option<Arc<dyn SharedCache<R>>>,
        metrics: CacheMetrics,
    ) -> Lookup<R>
    where
        Arc<dyn Store>: Records<R>,
    {
        let dependencies = Dependencies {
            store: Box::new(Arc::clone(&self.store)),
            keep,
            shared,
            fence: Arc::clone(&self.fence),
            clock: Arc::clone(&self.clock),
            control: self.control.clone(),
            limits: ReadLimits {
                readers: 4,
                batch: 4,
                waiting: 64,
                patience: Duration::from_secs(2),
            },
            refused: self.world.metrics.store_permits_refused.clone(),
        };
        let reads = Reads::start(dependencies, &Tasks::default());
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        Lookup::new(fence, clock, Arc::new(L1::new(self.l1)), reads, metrics)
    }
}
