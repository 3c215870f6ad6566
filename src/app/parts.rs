//! The parts of the service, and how each is made from what most of them share.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use super::{CACHED_KEYS, CACHED_TOKENS, NOT_FRESH, READS, StartError, Stops, set_health};
use crate::cache::l2::L2;
use crate::cache::{Dependencies, Fenced, Fetch, L1, Limiter, Lookup, Shared, SingleFlight};
use crate::config::Settings;
use crate::grpc::Tls;
use crate::replication::{
    Barrier, Member, Tail, follow_announcements, follow_hints, reap_the_silent, watch_freshness,
};
use keyward_core::fence::{Fence, Now};
use keyward_core::key::{Clock, KeyRecord, TokenRecord};
use keyward_ops::{CacheMetrics, Metrics, http};
use keyward_store::{Cluster, Control, Store};

/// The listener's TLS, if the settings name a certificate.
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

/// What most parts are made from.
pub(super) struct Base {
    pub(super) store: Arc<dyn Store>,
    pub(super) cluster: Option<Arc<dyn Cluster>>,
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) control: Control,
    pub(super) stops: Stops,
    pub(super) l2: Option<Arc<L2>>,
}

impl Base {
    pub(super) fn tail(&self, member: Option<Member>) -> Arc<Tail> {
        let (store, fence) = (Arc::clone(&self.store), Arc::clone(&self.fence));
        Arc::new(Tail::new(
            store,
            fence,
            Arc::clone(&self.clock),
            member,
            self.metrics.beats.clone(),
        ))
    }

    pub(super) fn barrier(&self, tail: &Arc<Tail>) -> (Barrier, Option<BoxFuture<'static, ()>>) {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let waiting = self.stops.waiting.clone();
        let (barrier, watching) = Barrier::new(
            self.cluster.clone(),
            Arc::clone(tail),
            fence,
            clock,
            waiting,
            self.metrics.revoke.clone(),
        );
        (barrier.with(self.l2.clone()), watching)
    }

    pub(super) fn keys(&self) -> Lookup<KeyRecord> {
        let store = Arc::clone(&self.store);
        let fetch: Fetch<KeyRecord> = Arc::new(move |digest| {
            let store = Arc::clone(&store);
            async move { store.find_key(&digest).await }.boxed()
        });
        let shared = self.l2.clone().map(|l2| l2 as Arc<dyn Shared<KeyRecord>>);
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

    /// Keys and tokens have permits of their own: unknown keys cannot keep callers out.
    fn lookup<R: Fenced>(
        &self,
        fetch: Fetch<R>,
        shared: Option<Arc<dyn Shared<R>>>,
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
            permits: Limiter::new(running, waiting, patience),
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
            tasks.extend(self.among_others(cluster, tail));
        }
        if let Some(l2) = &self.l2 {
            let stop = self.stops.background.clone();
            let following = follow_announcements(Arc::clone(l2), Arc::clone(tail), stop);
            tasks.push(guard.guard("announcements", following));
        }
        tasks
    }

    /// What an instance does that is not the only one.
    fn among_others(&self, cluster: &Arc<dyn Cluster>, tail: &Arc<Tail>) -> [JoinHandle<()>; 2] {
        let metrics = self.metrics.members.clone();
        let stop = self.stops.background.clone();
        let (cluster, clock) = (Arc::clone(cluster), Arc::clone(&self.clock));
        let hints = follow_hints(
            Arc::clone(&cluster),
            Arc::clone(tail),
            metrics.clone(),
            stop.clone(),
        );
        let reaper = reap_the_silent(cluster, Arc::clone(tail), clock, metrics, stop);
        [
            self.stops.guard("hints", hints),
            self.stops.guard("reaper", reaper),
        ]
    }

    /// Keeps the listener's certificate up to date with its files.
    pub(super) fn certificate(&self, tls: Tls) -> JoinHandle<()> {
        let stop = self.stops.background.clone();
        self.stops.guard("certificate", tls.follow(stop))
    }

    /// Health says SERVING only while freshness holds.
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
        let stopping = self.stops.serving.clone();
        let ready = move || {
            if stopping.is_cancelled() {
                return Err("stopping".to_owned());
            }
            if !fence.is_fresh(Now::read(&*clock)) {
                let trouble = tail.trouble().unwrap_or_else(|| NOT_FRESH.to_owned());
                return Err(format!("not fresh: {trouble}"));
            }
            Ok(())
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
            metrics: Box::new(scrape),
            ready: Box::new(ready),
        };
        let stop = self.stops.background.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, probes, stop).await {
                tracing::error!(%error, "the side port ended");
            }
        })
    }
}
