//! Puts the service together, and takes it apart in order. The only place that names every
//! concrete type.

mod bootstrap;
mod owner;
mod parts;
mod run;
mod shared_cache;
mod stop;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::auth::Callers;
use crate::config::{self, Settings};
use crate::grpc::{self, Api, SERVICE_NAME, Workers};
use crate::replication::Member;
use crate::service::Service;
use crate::system::{SystemClock, SystemEntropy, host_name};
use keyward_core::fence::{Fence, MAX_TOMBSTONES};
use keyward_core::key::{Clock, Entropy, Prefix, TOKEN_PREFIX, Verdict};
use keyward_ops::Metrics;
use keyward_store::{Control, Instrumentation, Intercepted, Store};
use keyward_store_postgres::PostgresStore;
use keyward_store_sqlite::SqliteStore;
use parts::Base;

pub use owner::{add_cache_key, advance_epoch, init, migrate};
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
    api: Api,
    store: Arc<dyn Store>,
    control: Control,
    health: HealthReporter,
    acceptor: JoinHandle<Workers>,
    watch: JoinHandle<()>,
    /// The tail, the watcher, the trimming of the log, the side port.
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
    /// Something ended that must not: the process is of no more use.
    broken: CancellationToken,
}

impl Stops {
    /// Starts work that goes on until the process stops. If it ends before, by a panic, the process
    /// must not live on without it.
    fn guard(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (task, stops) = (tokio::spawn(work), self.clone());
        tokio::spawn(async move {
            let ended = task.await;
            let stopping = stops.waiting.is_cancelled() || stops.background.is_cancelled();
            if !stopping {
                tracing::error!(
                    name,
                    ?ended,
                    "work ended that the service cannot do without"
                );
                stops.broken.cancel();
            }
        })
    }
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
        let tls = parts::listener_tls(settings, &clock, &metrics)?;
        let grpc = listener.local_addr().map_err(StartError::new)?;
        let http = side.as_ref().and_then(|side| side.local_addr().ok());

        let store = around_store(open_store(settings, &clock, &*entropy, &metrics).await?);
        let cluster = store.cluster();
        let may = match &cluster {
            Some(_) => bootstrap::May::Load,
            None => bootstrap::May::Make,
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
        let stops = Stops::default();
        let stop = &stops.background;
        let l2 = shared_cache::start(settings, &keyring, &entropy, &metrics.l2, stop)?;
        if let (Some(cluster), Some(l2)) = (&cluster, l2.clone()) {
            cluster.set_on_commit(Box::new(move || l2.hint()));
        }
        let base = Base {
            store,
            cluster,
            fence,
            clock,
            metrics,
            control,
            stops,
            l2,
        };
        let member = base.cluster.clone().map(|cluster| {
            Member::new(
                cluster,
                format!("{} {grpc}", host_name()),
                settings.max_staleness,
                keyring.generations().collect(),
                Arc::clone(&entropy),
                base.metrics.members.clone(),
            )
        });
        let tail = base.tail(member);
        tail.catch_up().await.map_err(StartError)?;
        let (barrier, watching) = base.barrier(&tail);
        let callers = Callers::new(token_prefix.clone(), Arc::clone(&keyring), base.tokens());
        let service = Service {
            store: Arc::clone(&base.store),
            fence: Arc::clone(&base.fence),
            keys: base.keys(),
            keyring,
            prefixes: settings.key_prefixes.clone(),
            token_prefix,
            barrier,
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
        let server = grpc::server(api.clone(), health_server, &base.metrics, clock)
            .map_err(StartError::new)?;
        let stop = &base.stops.serving;
        let workers = match settings.workers {
            0 => Workers::here(&server, tls.as_ref(), &base.metrics, stop),
            count => Workers::start(count, &server, tls.as_ref(), &base.metrics, stop).map_err(
                |error| StartError(format!("the serving threads cannot start: {error}")),
            )?,
        };
        let mut background = base.background(&tail);
        background.extend(watching.map(|watching| base.stops.guard("watcher", watching)));
        background.extend(side.map(|side| base.side_port(side, &tail)));
        background.extend(tls.map(|tls| base.certificate(tls)));
        Ok(Self {
            grpc,
            http,
            api,
            watch: base.watch(health.clone()),
            health,
            background,
            acceptor: tokio::spawn(grpc::accept(listener, workers, stop.clone())),
            store: base.store,
            control: base.control,
            stops: base.stops,
        })
    }

    /// Ends when something has ended that the service cannot do without.
    pub async fn broken(&self) {
        self.stops.broken.cancelled().await;
    }

    /// Where the gRPC service listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// What the port serves, for a test that drives a call itself.
    pub fn api(&self) -> &Api {
        &self.api
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
    let store: Arc<dyn Store> = match &settings.store {
        config::Store::Sqlite(path) => {
            bootstrap::directory(&settings.data_dir)?;
            let store = SqliteStore::open(path, Arc::clone(clock), entropy).await;
            Arc::new(store.map_err(StartError::new)?)
        }
        config::Store::Postgres(urls) => {
            let clock = Arc::clone(clock);
            let store = PostgresStore::open(urls.expose(), settings.max_staleness, clock).await;
            Arc::new(store.map_err(StartError::new)?)
        }
    };
    let instrumentation = Instrumentation::new(Arc::clone(clock), Arc::clone(metrics));
    Ok(Arc::new(Intercepted::new(store, Arc::new(instrumentation))))
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
