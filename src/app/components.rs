//! Builds the components of the service from their shared dependencies.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use super::keyring::KeyringWatch;
use super::{NOT_FRESH, StartError, Stops, set_health, status};
use crate::auth::expiry;
use crate::cache::l2::L2;
use crate::cache::{
    Dependencies, ForeignKeys, Keep, L1, Lookup, ReadLimits, Reads, Record, Records, SharedCache,
    Uses,
};
use crate::config::Settings;
use crate::grpc::{self, Tls, TlsFiles};
use crate::replication::{
    AuditKeeper, Barrier, NearCaches, NearLimits, Registration, Roster, SealMover, StoreTime, Tail,
    UseWriter, end_graces, forget_near_caches, trim_log, trim_outbox, wake_on_l2_notices,
    wake_on_store_notices, watch_freshness, watch_membership,
};
use crate::service::RecentRevokes;
use crate::webhooks::Webhooks;
use keyward_core::fence::{Fence, Now, Settling};
use keyward_core::key::{Clock, Entropy, KeyRecord, TokenRecord};
use keyward_crypto::CurrentKeyring;
use keyward_ops::{CacheMetrics, Metrics, Tasks, http};
use keyward_store::{Cluster, Control, Store};

/// The maximum size of the tokens in memory, in bytes.
const CACHED_TOKENS: usize = 1 << 20;
/// The text of all metrics.
pub(super) type ShownMetrics = Arc<dyn Fn() -> String + Send + Sync>;
/// The limits of reads behind L1.
const READS: ReadLimits = ReadLimits {
    readers: 4,
    batch: 64,
    waiting: 4_096,
    patience: Duration::from_secs(2),
};

/// Those of foreign keys: anybody can invent texts that must be looked up, so a flood of them takes two
/// connections and a short queue.
const FOREIGN_READS: ReadLimits = ReadLimits {
    readers: 2,
    waiting: 512,
    ..READS
};

/// The limits in force: the files that the process may open limit its connections, too.
pub(super) fn limits(max_connections: usize, max_buffered_bytes: usize) -> grpc::Limits {
    if let Some(warning) = super::too_few_files(max_connections) {
        tracing::warn!("{warning}");
    }
    grpc::Limits {
        connections: max_connections.min(super::file_limit()),
        buffered: max_buffered_bytes,
    }
}

/// TLS of the gRPC port, if the settings name a certificate.
pub(super) fn listener_tls(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Option<Tls>, StartError> {
    let Some((certificate, key)) = settings.tls() else {
        return Ok(None);
    };
    let files = TlsFiles {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        client_ca: settings.tls_client_ca.clone(),
    };
    let tls = Tls::load(files, Arc::clone(clock), metrics.tls.clone())?;
    Ok(Some(tls))
}

/// The webhooks of the settings.
pub(super) fn webhooks(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<Webhooks>, StartError> {
    let (clock, entropy) = (Arc::clone(clock), Arc::clone(entropy));
    let (endpoints, timeout) = (&settings.webhooks, settings.webhook_timeout);
    let webhooks = Webhooks::new(endpoints, timeout, clock, entropy);
    webhooks.map(Arc::new).map_err(StartError)
}

/// The near-caches of callers, none yet. The store is open, so this process alone has an embedded one.
pub(super) async fn near_caches(
    settings: &Settings,
    store: &Arc<dyn Store>,
    fence: &Arc<Fence>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Arc<NearCaches>, StartError> {
    let limits = NearLimits {
        max_staleness: settings.near_max_staleness,
        count: settings.max_near_caches,
    };
    let (fence, clock) = (Arc::clone(fence), Arc::clone(clock));
    let near = NearCaches::start(store, fence, clock, limits, metrics.near.clone()).await?;
    Ok(Arc::new(near))
}

/// The dependencies that most components share.
pub(super) struct Base {
    pub(super) store: Arc<dyn Store>,
    pub(super) cluster: Option<Arc<dyn Cluster>>,
    pub(super) settling: Arc<Mutex<Settling>>,
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) control: Control,
    pub(super) tasks: Tasks,
    pub(super) stops: Stops,
    pub(super) l2: Option<L2>,
    pub(super) time: Arc<StoreTime>,
    pub(super) near: Arc<NearCaches>,
    pub(super) roster: Arc<Roster>,
    pub(super) recent: Arc<RecentRevokes>,
    pub(super) uses: Arc<Uses>,
}

impl Base {
    pub(super) fn tail(
        &self,
        registration: Option<Registration>,
        keyring: &Arc<CurrentKeyring>,
    ) -> Arc<Tail> {
        let (store, fence) = (Arc::clone(&self.store), Arc::clone(&self.fence));
        Arc::new(Tail::new(
            store,
            fence,
            Arc::clone(&self.clock),
            registration,
            Arc::clone(keyring),
            Arc::clone(&self.near),
            self.metrics.beats.clone(),
        ))
    }

    /// Warns of a store that does not fit this instance: its time, and the prefixes of its keys.
    pub(super) fn warn_of_store(&self, settings: &Settings) {
        if let Some(warning) = self.time.warning() {
            tracing::warn!("{warning}");
        }
        let (store, accepted) = (Arc::clone(&self.store), settings.key_prefixes.clone());
        // In the background, because it counts keys if it has to warn.
        self.control.spawn(async move {
            match store.note_prefixes(&accepted).await {
                Ok(missing) => missing
                    .iter()
                    .filter(|(_, keys)| *keys > 0)
                    .for_each(|(prefix, keys)| {
                        tracing::warn!(
                            "{keys} keys begin with {prefix}_, and Verify calls them MALFORMED: add \
                             {prefix} to `key_prefixes`"
                        );
                    }),
                Err(error) => tracing::warn!(%error, "cannot check the prefixes of the stored keys"),
            }
        });
    }

    pub(super) fn barrier(&self, tail: &Arc<Tail>) -> (Barrier, Option<BoxFuture<'static, ()>>) {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let waiting = self.stops.waiting.clone();
        let (barrier, watching) = Barrier::new(
            self.cluster.clone(),
            Arc::clone(&self.settling),
            Arc::clone(tail),
            fence,
            clock,
            waiting,
            self.metrics.revoke.clone(),
        );
        let entries = self.l2.as_ref().map(|l2| Arc::clone(&l2.entries));
        (barrier.with(entries), watching)
    }

    /// Finds keys in `l1` first.
    pub(super) fn keys(&self, l1: Arc<L1<KeyRecord>>) -> Lookup<KeyRecord> {
        let entries = self.l2.as_ref().map(|l2| Arc::clone(&l2.entries));
        let shared = entries.map(|entries| entries as Arc<dyn SharedCache<KeyRecord>>);
        let metrics = self.metrics.key_cache.clone();
        self.lookup(grpc::keep(&self.uses), shared, l1, READS, metrics)
    }

    /// Finds foreign keys in `l1` first. Not in Redis: a flood would go there, too.
    pub(super) fn foreign_keys(&self, l1: Arc<L1<ForeignKeys>>) -> Lookup<ForeignKeys> {
        let metrics = self.metrics.foreign_cache.clone();
        let keep = grpc::keep_foreign(&self.uses);
        self.lookup(keep, None, l1, FOREIGN_READS, metrics)
    }

    pub(super) fn tokens(&self) -> Lookup<TokenRecord> {
        let metrics = self.metrics.token_cache.clone();
        let l1 = Arc::new(L1::new(CACHED_TOKENS));
        self.lookup(Arc::new(TokenRecord::clone), None, l1, READS, metrics)
    }

    /// Each lookup has its own readers, so that reads of unknown keys cannot block the callers' tokens.
    fn lookup<R: Record>(
        &self,
        keep: Keep<R>,
        shared: Option<Arc<dyn SharedCache<R>>>,
        l1: Arc<L1<R>>,
        limits: ReadLimits,
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
            limits,
            refused: self.metrics.store_permits_refused.clone(),
        };
        let reads = Reads::start(dependencies, &self.tasks);
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        Lookup::new(fence, clock, l1, reads, metrics)
    }

    pub(super) fn background(&self, tail: &Arc<Tail>) -> Vec<JoinHandle<Option<()>>> {
        let (running, stop) = (Arc::clone(tail), self.stops.background.clone());
        let spawn = &self.tasks;
        let store = || Arc::clone(&self.store);
        let callers = expiry::measure(store(), self.metrics.callers.clone(), stop.clone());
        let mut tasks = vec![
            spawn.spawn("graces", end_graces(store(), stop.clone())),
            spawn.spawn("trimming", trim_log(store(), stop.clone())),
            spawn.spawn("expiry of callers", callers),
            spawn.spawn("outbox", trim_outbox(store(), stop.clone())),
            spawn.spawn("tail", async move { running.run(stop).await }),
        ];
        if self.cluster.is_none() {
            let (near, stop) = (Arc::clone(&self.near), self.stops.background.clone());
            tasks.push(spawn.spawn("near-caches", forget_near_caches(near, stop)));
        }
        if let Some(cluster) = &self.cluster {
            tasks.extend(self.cluster_tasks(cluster, tail));
        }
        if let Some(l2) = &self.l2 {
            let stop = self.stops.background.clone();
            let notices = wake_on_l2_notices(Arc::clone(&l2.notices), Arc::clone(tail), stop);
            tasks.push(spawn.spawn("redis notices", notices));
        }
        tasks
    }

    /// The tasks of an instance that shares its store with others.
    fn cluster_tasks(
        &self,
        cluster: &Arc<dyn Cluster>,
        tail: &Arc<Tail>,
    ) -> [JoinHandle<Option<()>>; 3] {
        let metrics = self.metrics.members.clone();
        let stop = self.stops.background.clone();
        let (cluster, clock) = (Arc::clone(cluster), Arc::clone(&self.clock));
        let notices = wake_on_store_notices(
            Arc::clone(&cluster),
            Arc::clone(tail),
            metrics.clone(),
            stop.clone(),
        );
        let time = Arc::clone(&self.time).keep(Arc::clone(&cluster), stop.clone());
        let settling = Arc::clone(&self.settling);
        let (tail, roster) = (Arc::clone(tail), Arc::clone(&self.roster));
        let membership = watch_membership(cluster, settling, tail, roster, clock, metrics, stop);
        [
            self.tasks.spawn("store time", time),
            self.tasks.spawn("store notices", notices),
            self.tasks.spawn("membership", membership),
        ]
    }

    /// Writes the use of the keys in these caches.
    pub(super) fn use_writer(
        &self,
        interval: Duration,
        keys: Arc<L1<KeyRecord>>,
        foreign: Arc<L1<ForeignKeys>>,
    ) -> JoinHandle<Option<()>> {
        let writer = UseWriter {
            store: Arc::clone(&self.store),
            uses: Arc::clone(&self.uses),
            keys,
            foreign,
            interval,
            metrics: self.metrics.uses.clone(),
        };
        let stop = self.stops.background.clone();
        self.tasks.spawn("uses of keys", writer.run(stop))
    }

    /// The tasks that follow the keyring and move sealed copies.
    pub(super) fn keyring_tasks(
        &self,
        watch: KeyringWatch,
        keyring: Arc<CurrentKeyring>,
        entropy: Arc<dyn Entropy>,
    ) -> [JoinHandle<Option<()>>; 2] {
        let mover = SealMover {
            store: Arc::clone(&self.store),
            keyring,
            entropy,
            metrics: self.metrics.keyring.clone(),
        };
        let stop = || self.stops.background.clone();
        [
            self.tasks.spawn("keyring", watch.run(stop())),
            self.tasks.spawn("sealed copies", mover.run(stop())),
        ]
    }

    /// The task that seals and trims the audit.
    pub(super) fn audit_task(
        &self,
        settings: &Settings,
        keyring: &Arc<CurrentKeyring>,
        entropy: &Arc<dyn Entropy>,
    ) -> JoinHandle<Option<()>> {
        let keeper = AuditKeeper {
            store: Arc::clone(&self.store),
            keyring: Arc::clone(keyring),
            entropy: Arc::clone(entropy),
            metrics: self.metrics.audit.clone(),
        };
        let stop = self.stops.background.clone();
        self.tasks
            .spawn("audit", keeper.run(settings.audit_retention, stop))
    }

    /// The tasks that send events to webhooks.
    pub(super) fn webhook_tasks(
        &self,
        settings: &Settings,
        webhooks: &Arc<Webhooks>,
    ) -> Vec<JoinHandle<Option<()>>> {
        let (notice, stop) = (settings.expiry_notice, &self.stops.background);
        webhooks.start(&self.store, notice, &self.metrics, &self.tasks, stop)
    }

    /// Reloads the certificate of the gRPC port when its files change.
    pub(super) fn certificate(&self, tls: Tls) -> JoinHandle<Option<()>> {
        let stop = self.stops.background.clone();
        self.tasks.spawn("certificate", tls.reload(stop))
    }

    /// Sets the health status to SERVING only while the instance is fresh.
    pub(super) fn watch(&self, health: HealthReporter) -> JoinHandle<Option<()>> {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let stop = self.stops.background.clone();
        let watching = watch_freshness(true, fence, clock, stop, move |fresh| {
            let health = health.clone();
            async move { set_health(&health, fresh).await }.boxed()
        });
        self.tasks.spawn("health", watching)
    }

    /// The text of all metrics. It updates the gauges.
    pub(super) fn shown_metrics(&self) -> ShownMetrics {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let (metrics, time) = (Arc::clone(&self.metrics), Arc::clone(&self.time));
        Arc::new(move || {
            let now = Now::read(&*clock);
            let age = fence
                .freshness_age(now)
                .map_or(-1.0, |age| age.as_secs_f64());
            metrics.fence.fresh.set(i64::from(fence.is_fresh(now)));
            metrics.fence.freshness_age.set(age);
            metrics.fence.applied_revision.set(fence.applied());
            metrics
                .fence
                .tombstones
                .set(fence.tombstones().try_into().unwrap_or(u64::MAX));
            metrics.fence.floor_revision.set(fence.floor());
            let ahead = time.ahead().as_secs_f64();
            metrics.fence.store_time_ahead.set(ahead);
            metrics.encode()
        })
    }

    pub(super) fn side_port(
        &self,
        listener: TcpListener,
        hosts: Vec<String>,
        tail: &Arc<Tail>,
        metrics: ShownMetrics,
    ) -> JoinHandle<Option<()>> {
        let tail = Arc::clone(tail);
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let (stopping, time) = (self.stops.ready.clone(), Arc::clone(&self.time));
        let ready = Arc::new(move || {
            if stopping.is_cancelled() {
                return Err("stopping".to_owned());
            }
            if !fence.is_fresh(Now::read(&*clock)) {
                let cause = tail.trouble().unwrap_or_else(|| NOT_FRESH.to_owned());
                return Err(format!("not fresh: {cause}"));
            }
            let warning = time.warning();
            Ok(warning.map_or_else(|| "ok".to_owned(), |warning| format!("ok, but {warning}")))
        });
        let page = status::page(self, hosts, Arc::clone(&ready));
        let probes = http::Probes {
            name: "keyward",
            metrics: Box::new(move || metrics()),
            ready: Box::new(move || ready()),
            page: Some(page),
        };
        let stop = self.stops.background.clone().cancelled_owned();
        self.tasks.spawn("side port", async move {
            if let Err(error) = http::serve(listener, probes, stop).await {
                tracing::error!(%error, "the side port failed");
            }
        })
    }
}
