//! Puts the service together, and takes it apart in order. The only place that names every
//! concrete type.

mod bootstrap;
mod owner;
mod run;
mod stop;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::cache::{Fenced, Fetch, Flights, L1, Lookup, Permits};
use crate::caller::Callers;
use crate::config::{self, Settings};
use crate::feed::{Barrier, Member, Tail, follow_hints, reap_the_silent, watch_freshness};
use crate::fence::{Fence, MAX_TOMBSTONES, Now};
use crate::grpc::{self, Api, SERVICE_NAME, Workers};
use crate::key::{Clock, Entropy, KeyRecord, Prefix, TOKEN_PREFIX, TokenRecord, Verdict};
use crate::service::Service;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Control, Instrumented, Store};
use crate::system::{SystemClock, SystemEntropy, host_name};
use crate::telemetry::{CacheMetrics, Metrics, http};

pub use owner::{advance_epoch, init, migrate};
pub use run::serve;

/// What `/readyz` says while nothing can be admitted and the tail knows no reason.
const NOT_FRESH: &str = "this instance cannot prove that it knows of every change";

/// About so many keys are kept in memory, in at most so many bytes.
const CACHED_KEYS: (usize, u64) = (200_000, 128 << 20);
const CACHED_TOKENS: (usize, u64) = (1_000, 1 << 20);
/// Reads of the store at a time, reads that may wait for that, and how long.
const READS: (usize, usize, Duration) = (16, 4_096, Duration::from_secs(2));

/// The names that health is asked for: the whole server, and its service.
const HEALTH_NAMES: [&str; 2] = ["", SERVICE_NAME];

/// Why the service cannot start: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl StartError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Wraps a store.
pub type AroundStore = Box<dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send>;

/// What comes from outside: the machine's clocks and randomness, or a test's.
pub struct Parts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Put around the store, so that a test can stall or break it.
    pub around_store: AroundStore,
}

impl Parts {
    /// The machine's own.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            around_store: Box::new(|store| store),
        }
    }
}

/// A running service.
pub struct App {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
    store: Arc<dyn Store>,
    control: Control,
    health: HealthReporter,
    acceptor: JoinHandle<Workers>,
    watch: JoinHandle<()>,
    /// The tail, the trimming of the log, the side port.
    background: Vec<JoinHandle<()>>,
    stops: Stops,
}

/// What ends when, in this order.
#[derive(Clone, Default)]
struct Stops {
    /// Accepting and serving.
    serving: CancellationToken,
    /// Waiting for changes to hold everywhere.
    waiting: CancellationToken,
    /// The rest.
    background: CancellationToken,
}

impl App {
    /// Starts the service on the current runtime, which becomes the control runtime.
    pub async fn start(settings: &Settings, parts: Parts) -> Result<Self, StartError> {
        let Parts {
            clock,
            entropy,
            around_store,
        } = parts;
        let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        let metrics = Arc::new(Metrics::new(&verdicts));
        // Bound before anything is written: a port in use leaves no trace.
        let listener = listen("listen", settings.listen).await?;
        let side = match settings.http_listen {
            Some(address) => Some(listen("http_listen", address).await?),
            None => None,
        };
        let grpc = listener.local_addr().map_err(StartError::new)?;
        let http = side.as_ref().and_then(|side| side.local_addr().ok());

        let store = around_store(open_store(settings, &clock, &*entropy, &metrics).await?);
        let may = match store.shared() {
            true => bootstrap::May::Load,
            false => bootstrap::May::Make,
        };
        let keyring = Arc::new(bootstrap::keyring(settings, &*store, &*entropy, may).await?);
        let token_prefix = Prefix::new(TOKEN_PREFIX).map_err(StartError::new)?;
        if may == bootstrap::May::Make {
            let first = bootstrap::FirstToken {
                file: bootstrap::token_file(settings),
                prefix: &token_prefix,
                keyring: &keyring,
            };
            first.ensure(&*store, &*clock, &*entropy).await?;
        }

        let start = store.start().await.map_err(StartError::new)?;
        let fence = Arc::new(Fence::new(settings.max_staleness, MAX_TOMBSTONES, start));
        let control = Control::new(tokio::runtime::Handle::current());
        let base = Base {
            store,
            fence,
            clock,
            metrics,
            control,
            stops: Stops::default(),
        };
        let member = Member::new(
            format!("{} {grpc}", host_name()),
            settings.max_staleness,
            keyring.generations().collect(),
            Arc::clone(&entropy),
            base.metrics.members.clone(),
        );
        let tail = base.tail(member);
        tail.catch_up().await.map_err(StartError)?;
        let callers = Callers::new(token_prefix.clone(), Arc::clone(&keyring), base.tokens());
        let service = Service {
            store: Arc::clone(&base.store),
            fence: Arc::clone(&base.fence),
            keys: base.keys(),
            keyring,
            prefixes: settings.key_prefixes.clone(),
            token_prefix,
            barrier: base.barrier(&tail),
            control: base.control.clone(),
            clock: Arc::clone(&base.clock),
            entropy,
            metrics: Arc::clone(&base.metrics),
            forbid_recoverable: settings.forbid_recoverable,
        };
        let (health, health_server) = tonic_health::server::health_reporter();
        // Before anybody is told that the service is ready.
        set_health(&health, true).await;
        tracing::info!(applied = base.fence.applied(), "fresh: serving");
        let api = Api::new(Arc::new(service), Arc::new(callers));
        let clock = Arc::clone(&base.clock);
        let server =
            grpc::server(api, health_server, &base.metrics, clock).map_err(StartError::new)?;
        let stop = &base.stops.serving;
        let workers = match settings.workers {
            0 => Workers::here(&server, &base.metrics, stop),
            count => Workers::start(count, &server, &base.metrics, stop).map_err(|error| {
                StartError(format!("the serving threads cannot start: {error}"))
            })?,
        };
        let mut background = base.background(&tail);
        background.extend(side.map(|side| base.side_port(side, &tail)));
        Ok(Self {
            grpc,
            http,
            watch: base.watch(health.clone()),
            health,
            background,
            acceptor: tokio::spawn(grpc::accept(listener, workers, stop.clone())),
            store: base.store,
            control: base.control,
            stops: base.stops,
        })
    }

    /// Where the gRPC service listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the side port listens, if it does.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "App({})", self.grpc)
    }
}

/// What most parts are made from.
struct Base {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    control: Control,
    stops: Stops,
}

impl Base {
    fn tail(&self, member: Member) -> Arc<Tail> {
        let (store, fence) = (Arc::clone(&self.store), Arc::clone(&self.fence));
        Arc::new(Tail::new(
            store,
            fence,
            Arc::clone(&self.clock),
            member,
            self.metrics.beats.clone(),
        ))
    }

    fn barrier(&self, tail: &Arc<Tail>) -> Barrier {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let waiting = self.stops.waiting.clone();
        Barrier::new(
            &self.store,
            Arc::clone(tail),
            fence,
            clock,
            waiting,
            self.metrics.revoke.clone(),
        )
    }

    fn keys(&self) -> Lookup<KeyRecord> {
        let store = Arc::clone(&self.store);
        let fetch: Fetch<KeyRecord> = Arc::new(move |digest| {
            let store = Arc::clone(&store);
            async move { store.find_key(&digest).await }.boxed()
        });
        self.lookup(fetch, CACHED_KEYS, self.metrics.key_cache.clone())
    }

    fn tokens(&self) -> Lookup<TokenRecord> {
        let store = Arc::clone(&self.store);
        let fetch: Fetch<TokenRecord> = Arc::new(move |digest| {
            let store = Arc::clone(&store);
            async move { store.find_token(&digest).await }.boxed()
        });
        self.lookup(fetch, CACHED_TOKENS, self.metrics.token_cache.clone())
    }

    /// Keys and tokens have permits of their own: unknown keys cannot keep callers out.
    fn lookup<R: Fenced>(
        &self,
        fetch: Fetch<R>,
        (items, bytes): (usize, u64),
        metrics: CacheMetrics,
    ) -> Lookup<R> {
        let (running, waiting, patience) = READS;
        let permits = Arc::new(Permits::new(running, waiting, patience));
        let refused = self.metrics.store_permits_refused.clone();
        let flights = Flights::new(fetch, permits, self.control.clone(), refused);
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        Lookup::new(fence, clock, L1::new(items, bytes), flights, metrics)
    }

    fn background(&self, tail: &Arc<Tail>) -> Vec<JoinHandle<()>> {
        let (running, trimming) = (Arc::clone(tail), Arc::clone(tail));
        let (stop, stop_trimming) = (self.stops.background.clone(), self.stops.background.clone());
        let mut tasks = vec![
            tokio::spawn(async move { running.run(stop).await }),
            tokio::spawn(async move { trimming.trim(stop_trimming).await }),
        ];
        if self.store.shared() {
            tasks.extend(self.among_others(tail));
        }
        tasks
    }

    /// What an instance does that is not the only one.
    fn among_others(&self, tail: &Arc<Tail>) -> [JoinHandle<()>; 2] {
        let metrics = self.metrics.members.clone();
        let stop = self.stops.background.clone();
        [
            tokio::spawn(follow_hints(
                Arc::clone(&self.store),
                Arc::clone(tail),
                metrics.clone(),
                stop.clone(),
            )),
            tokio::spawn(reap_the_silent(
                Arc::clone(&self.store),
                Arc::clone(tail),
                Arc::clone(&self.clock),
                metrics,
                stop,
            )),
        ]
    }

    /// Health says SERVING only while freshness holds.
    fn watch(&self, health: HealthReporter) -> JoinHandle<()> {
        let (fence, clock) = (Arc::clone(&self.fence), Arc::clone(&self.clock));
        let stop = self.stops.background.clone();
        tokio::spawn(watch_freshness(true, fence, clock, stop, move |fresh| {
            let health = health.clone();
            async move { set_health(&health, fresh).await }.boxed()
        }))
    }

    fn side_port(&self, listener: TcpListener, tail: &Arc<Tail>) -> JoinHandle<()> {
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

/// Binds the address of a setting.
async fn listen(setting: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| {
        StartError(format!(
            "{address} cannot be listened on: {error}; does another keyward run there? The setting \
             `{setting}` names another address"
        ))
    })
}

async fn open_store(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    entropy: &dyn Entropy,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Store>, StartError> {
    fn watched<S: Store>(
        store: S,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Arc<dyn Store> {
        Arc::new(Instrumented::new(
            store,
            Arc::clone(clock),
            Arc::clone(metrics),
        ))
    }
    match &settings.store {
        config::Store::Sqlite(path) => {
            bootstrap::directory(&settings.data_dir)?;
            let store = SqliteStore::open(path, Arc::clone(clock), entropy).await;
            Ok(watched(store.map_err(StartError::new)?, clock, metrics))
        }
        config::Store::Postgres(urls) => {
            let store =
                PostgresStore::open(urls.expose(), settings.max_staleness, Arc::clone(clock)).await;
            Ok(watched(store.map_err(StartError::new)?, clock, metrics))
        }
    }
}

async fn set_health(health: &HealthReporter, fresh: bool) {
    let status = if fresh {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}
