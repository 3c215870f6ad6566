//! Builds the components of the service from their shared dependencies.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use super::{CACHED_KEYS, CACHED_TOKENS, NOT_FRESH, READS, StartError, Stops, set_health};
use crate::cache::l2::L2;
use crate::cache::{Dependencies, Fenced, Fetch, L1, Limiter, Lookup, SharedCache, SingleFlight};
use crate::config::Settings;
use crate::grpc::Tls;
use crate::replication::{
    Barrier, Registration, Tail, wake_on_l2_notices, wake_on_store_notices, watch_freshness,
    watch_membership,
};
use keyward_core::fence::{Fence, Now, Settling};
use keyward_core::key::{Clock, KeyRecord, TokenRecord};
use keyward_ops::{CacheMetrics, Metrics, http};
use keyward_store::{Cluster, Control, Store};

/// TLS of the gRPC port, if the settings name a certificate.
pub(super) fn listener_tls(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Option<Tls>, StartError> {
    let Some((certificate, key)) = settings.tls() else {
        return Ok(None);
    };
    Tls::load(certificate, key, Arc::clone(clock), metrics.tls.clone())
        .map(Some)
        .map_err(StartError::new)
}

/// The store's time may be this much ahead of the machine's without a warning.
const TIME_TOLERANCE: Duration = Duration::from_secs(60);

/// A warning if the store's time is far ahead of the machine's.
fn time_warning(fence: &Fence, clock: &dyn Clock) -> Option<String> {
    let store = fence.snapshot().database_time(clock.boot());
    let ahead = store.since(clock.wall());
    (ahead > TIME_TOLERANCE).then(|| {
        format!(
            "the store's time is {} ahead of this machine's: keys expire too early. Check the clock \
             of this machine and of Postgres; the runbook says what to do",
            humantime::format_duration(Duration::from_secs(ahead.as_secs()))
        )
    })
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
    pub(super) stops: Stops,
    pub(super) l2: Option<L2>,
}

impl Base {
    pub(super) fn tail(&self, registration: Option<Registration>) -> Arc<Tail> {
        let (store, fence) = (Arc::clone(&self.store), Arc::clone(&self.fence));
        Arc::new(Tail::new(
            store,
            fence,
            Arc::clone(&self.clock),
            registration,
            self.metrics.beats.clone(),
        ))
    }

    /// Warns of a store that does not fit this instance: its time, and the prefixes of its keys.
    pub(super) fn warn_of_store(&self, settings: &Settings) {
        if let Some(warning) = time_warning(&self.fence, &*self.clock) {
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

    pub(super) fn keys(&self) -> Lookup<KeyRecord> {
        let store = Arc::clone(&self.store);
        let fetch: Fetch<KeyRecord> = Arc::new(move |digest| {
            let store = Arc::clone(&store);
            async move { store.find_key(&digest).await }.boxed()
        });
        let entries = self.l2.as_ref().map(|l2| Arc::clone(&l2.entries));
        let shared = entries.map(|entries| entries as Arc<dyn SharedCache<KeyRecord>>);
        self.lookup(fetch, shared, CACHED_KEYS, self.metrics.key_cache.clone())
    }

    pub(super) fn tokens(&self) -> Lookup<TokenRecord> {
        let store = Arc::clone(&self.store);
        let fetch: Fetch<TokenRecord> = Arc::new(move |digest| {
            let store = Arc::clone(&store);
            async move { store.find_token(&digest).await }.boxed()
        });
        self.lookup(fetch, None, CACHED_TOKENS, self.metrics.token_cache.clone())
    }

    /// Each lookup has its own limiter, so that reads of unknown keys cannot block the callers' tokens.
    fn lookup<R: Fenced>(
        &self,
        fetch: Fetch<R>,
        shared: Option<Arc<dyn SharedCache<R>>>,
        (items, bytes): (usize, u64),
        metrics: CacheMetrics,
    ) -> Lookup<R> {
        let (running, waiting, patience) = READS;
        let flights = SingleFlight::new(Dependencies {
            fetch,
            shared,
            fence: Arc::clone(&self.fence),
            clock: Arc::clone(&self.clock),
            control: self.control.clone(),
            limiter: Limiter::new(running, waiting, patience),
            refused: self.metrics.store_permits_refused.clone(),
        });
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        Lookup::new(fence, clock, L1::new(items, bytes), flights, metrics)
    }

    pub(super) fn background(&self, tail: &Arc<Tail>) -> Vec<JoinHandle<()>> {
        let (running, trimming) = (Arc::clone(tail), Arc::clone(tail));
        let (stop, stop_trimming) = (self.stops.background.clone(), self.stops.background.clone());
        let guard = &self.stops;
        let mut tasks = vec![
            guard.guard("tail", async move { running.run(stop).await }),
            guard.guard(
                "trimming",
                async move { trimming.trim(stop_trimming).await },
            ),
        ];
        if let Some(cluster) = &self.cluster {
            tasks.extend(self.cluster_tasks(cluster, tail));
        }
        if let Some(l2) = &self.l2 {
            let stop = self.stops.background.clone();
            let notices = wake_on_l2_notices(Arc::clone(&l2.notices), Arc::clone(tail), stop);
            tasks.push(guard.guard("redis notices", notices));
        }
        tasks
    }

    /// The tasks of an instance that shares its store with others.
    fn cluster_tasks(&self, cluster: &Arc<dyn Cluster>, tail: &Arc<Tail>) -> [JoinHandle<()>; 2] {
        let metrics = self.metrics.members.clone();
        let stop = self.stops.background.clone();
        let (cluster, clock) = (Arc::clone(cluster), Arc::clone(&self.clock));
        let notices = wake_on_store_notices(
            Arc::clone(&cluster),
            Arc::clone(tail),
            metrics.clone(),
            stop.clone(),
        );
        let settling = Arc::clone(&self.settling);
        let membership =
            watch_membership(cluster, settling, Arc::clone(tail), clock, metrics, stop);
        [
            self.stops.guard("store notices", notices),
            self.stops.guard("membership", membership),
        ]
    }

    /// Reloads the certificate of the gRPC port when its files change.
    pub(super) fn certificate(&self, tls: Tls) -> JoinHandle<()> {
        let stop = self.stops.background.clone();
        self.stops.guard("certificate", tls.reload(stop))
    }

    /// Sets the health status to SERVING only while the instance is fresh.
    pub(super) fn watch(&self, health: HealthReporter) -> JoinHandle<()> {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let stop = self.stops.background.clone();
        tokio::spawn(watch_freshness(true, fence, clock, stop, move |fresh| {
            let health = health.clone();
            async move { set_health(&health, fresh).await }.boxed()
        }))
    }

    pub(super) fn side_port(&self, listener: TcpListener, tail: &Arc<Tail>) -> JoinHandle<()> {
        let tail = Arc::clone(tail);
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let stopping = self.stops.ready.clone();
        let ready = move || {
            if stopping.is_cancelled() {
                return Err("stopping".to_owned());
            }
            if !fence.is_fresh(Now::read(&*clock)) {
                let cause = tail.trouble().unwrap_or_else(|| NOT_FRESH.to_owned());
                return Err(format!("not fresh: {cause}"));
            }
            let warning = time_warning(&fence, &*clock);
            Ok(warning.map_or_else(|| "ok".to_owned(), |warning| format!("ok, but {warning}")))
        };
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let metrics = Arc::clone(&self.metrics);
        let scrape = move || {
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
            metrics.encode()
        };
        let probes = http::Probes {
            name: "keyward",
            metrics: Box::new(scrape),
            ready: Box::new(ready),
        };
        let stop = self.stops.background.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, probes, stop).await {
                tracing::error!(%error, "the side port failed");
            }
        })
    }
}
