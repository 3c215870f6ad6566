//! Assembles the service from its components, and stops it in order. Only this module names every
//! concrete type.

mod agent;
mod bootstrap;
mod clock;
mod components;
mod doctor;
mod keyring;
mod operations;
mod ports;
mod run;
mod shared_cache;
mod status;
mod stop;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::auth::Callers;
use crate::cache::{L1, Uses};
use crate::config::{Listen, Settings};
use crate::grpc::{self, Api, Front, Http, Listener, Listeners, LongCalls, SERVICE_NAME, Workers};
use crate::replication::{NearCaches, Registration, StoreTime};
use crate::rest::Rest;
use crate::service::{Denials, Reveals, Service};
use crate::system::{SystemClock, SystemEntropy, host_name, open_files};
use bootstrap::SecretPolicy;
use components::Base;
use keyring::KeyringWatch;
use keyward_core::fence::{Fence, MAX_TOMBSTONES, Settling};
use keyward_core::key::{Clock, Entropy, Prefix, TOKEN_PREFIX, Verdict};
use keyward_crypto::CurrentKeyring;
use keyward_guard::LogLimit;
use keyward_ops::{Ended, Metrics, MetricsExport, Tasks};
use keyward_store::{Control, Store};
use ports::{bind, listen};

pub use agent::{AgentMetrics, serve_agent};
pub use clock::lower_time;
pub use doctor::doctor;
pub use operations::{add_to_keyring, advance_epoch, init, migrate};
pub use run::{run, serve};

/// The answer of `/readyz` if the instance is not fresh and the tail reports no cause.
const NOT_FRESH: &str = "this instance cannot prove that it knows every change";

/// The number of files that are not connections of the gRPC port: the store, the side port, and others.
const RESERVED_FILES: usize = 256;

/// The mode of the service's socket: its user and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// The names of the health checks: the empty name for the whole server, and the service.
const HEALTH_NAMES: [&str; 2] = ["", SERVICE_NAME];

/// Why the service cannot start, and what to do.
#[derive(Debug)]
pub struct StartError(pub String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// `StartError` is not an `Error` itself, so that `?` can turn every error into one.
impl<E: std::error::Error> From<E> for StartError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Wraps a store.
pub type AroundStore = Box<dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send>;

/// The external dependencies: those of the machine, or those of a test.
pub struct Parts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Wraps the store, so that a test can stall or break it.
    pub around_store: AroundStore,
    /// Sends the metrics to a collector.
    pub telemetry: Option<MetricsExport>,
}

impl Parts {
    /// The dependencies of the machine.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            around_store: Box::new(|store| store),
            telemetry: None,
        }
    }
}

/// A running service.
pub struct App {
    grpc: Listen,
    rest: Option<SocketAddr>,
    http: Option<SocketAddr>,
    api: Api,
    store: Arc<dyn Store>,
    control: Control,
    near: Arc<NearCaches>,
    near_max_staleness: Duration,
    health: HealthReporter,
    acceptor: JoinHandle<Option<Workers>>,
    watch: JoinHandle<Option<()>>,
    /// The tail, the confirmer, trimming of the log, and the side port, among others.
    background: Vec<JoinHandle<Option<()>>>,
    tasks: Tasks,
    stops: Stops,
    drain_delay: Duration,
    _long_calls: LongCalls,
}

/// Stops the phases of the service, in this order.
#[derive(Clone, Default)]
struct Stops {
    /// Announcing readiness.
    ready: CancellationToken,
    /// Accepting and serving.
    serving: CancellationToken,
    /// Waiting for changes to hold everywhere.
    waiting: CancellationToken,
    /// All other tasks.
    background: CancellationToken,
}

impl App {
    /// Starts the service on the current runtime, which becomes the control runtime.
    pub async fn start(settings: &Settings, parts: Parts) -> Result<Self, StartError> {
        let Parts {
            clock,
            entropy,
            around_store,
            telemetry,
        } = parts;
        let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        let metrics = Arc::new(Metrics::new(&verdicts));
        // Bind the ports before writing anything, so that a port in use leaves no traces.
        let (listener, grpc) = listen("listen", &settings.listen, SOCKET_MODE).await?;
        let rest = bind("rest_listen", settings.rest_listen).await?;
        let side = bind("http_listen", settings.http_listen).await?;
        let tls = components::listener_tls(settings, &clock, &metrics)?;
        let local =
            |port: &Option<TcpListener>| port.as_ref().and_then(|port| port.local_addr().ok());
        let (rest_address, http) = (local(&rest), local(&side));

        let tasks = Tasks::default();
        let store = store::open(settings, &clock, &*entropy, &metrics, &tasks).await?;
        let store = around_store(store);
        let cluster = store.cluster();
        let policy = match &cluster {
            Some(_) => SecretPolicy::Load,
            None => SecretPolicy::Create,
        };
        let keyring = bootstrap::keyring(settings, &*store, &*entropy, policy).await?;
        bootstrap::check_foreign(settings, &keyring)?;
        let token_prefix = Prefix::new(TOKEN_PREFIX)?;
        if policy == SecretPolicy::Create {
            let first = bootstrap::FirstToken {
                file: bootstrap::token_file(settings),
                prefix: &token_prefix,
                keyring: &keyring,
            };
            first.ensure(&*store, &*clock, &*entropy).await?;
        }

        let start = store.start().await?;
        let fence = Arc::new(Fence::new(settings.max_staleness, MAX_TOMBSTONES, start));
        let near = components::near_caches(settings, &store, &fence, &clock, &metrics).await?;
        let control = Control::new(tokio::runtime::Handle::current());
        let stops = Stops::default();
        let stop = &stops.background;
        let l2 = shared_cache::start(settings, &keyring, &entropy, &metrics.l2, &tasks, stop)?;
        if let (Some(cluster), Some(l2)) = (&cluster, &l2) {
            let notices = Arc::clone(&l2.notices);
            cluster.set_on_commit(Box::new(move || notices.publish()));
        }
        let keyring = Arc::new(CurrentKeyring::new(keyring));
        let time = Arc::new(StoreTime::new(Arc::clone(&fence), Arc::clone(&clock)));
        let uses = Arc::new(Uses::new(metrics.uses.dropped.clone()));
        let webhooks = components::webhooks(settings, &clock, &entropy)?;
        // Before any change, so that each one writes its events.
        webhooks.announce_first(&*store).await?;
        let base = Base {
            time,
            near,
            store,
            cluster,
            settling: Arc::new(Mutex::new(Settling::new(settings.failover_loses_nothing))),
            fence,
            clock,
            metrics,
            control,
            tasks,
            stops,
            l2,
            roster: Arc::default(),
            recent: Arc::default(),
            uses,
        };
        let registration = base.cluster.clone().map(|cluster| {
            Registration::new(
                cluster,
                format!("{} {grpc}", host_name()),
                settings.max_staleness,
                Arc::clone(&keyring),
                Arc::clone(&entropy),
                Arc::clone(&base.near),
                base.metrics.members.clone(),
            )
        });
        let tail = base.tail(registration, &keyring);
        let mut watch = KeyringWatch::new(&base, settings.keyring.clone(), &tail, &keyring);
        // Notices what has changed since the keyring was loaded, before this instance registers.
        watch.look().await.map_err(|misfit| {
            let path = settings.keyring.display();
            StartError(format!(
                "the keyring {path} does not fit this store: {misfit}. Copy the right file from another \
                 instance"
            ))
        })?;
        tail.catch_up().await.map_err(StartError)?;
        if let Some(cluster) = &base.cluster {
            base.time.raise_floor(&**cluster).await;
        }
        base.warn_of_store(settings);
        let (barrier, watching) = base.barrier(&tail);
        let callers = Callers::new(token_prefix.clone(), Arc::clone(&keyring), base.tokens());
        // Foreign keys get half of the memory, if there are any.
        let own_bytes = match settings.foreign_formats.is_empty() {
            true => settings.max_cached_bytes,
            false => settings.max_cached_bytes / 2,
        };
        let l1 = Arc::new(L1::new(own_bytes));
        let foreign_l1 = Arc::new(L1::new(settings.max_cached_bytes - own_bytes));
        let service = Service {
            store: Arc::clone(&base.store),
            fence: Arc::clone(&base.fence),
            keys: base.keys(Arc::clone(&l1)),
            foreign_keys: base.foreign_keys(Arc::clone(&foreign_l1)),
            uses: Arc::clone(&base.uses),
            foreign_formats: settings.foreign_formats.clone(),
            ambiguous: LogLimit::every(Duration::from_secs(60)),
            keyring: Arc::clone(&keyring),
            prefixes: settings.key_prefixes.clone(),
            token_prefix,
            barrier,
            near: Arc::clone(&base.near),
            imports: tokio::sync::Mutex::default(),
            control: base.control.clone(),
            clock: Arc::clone(&base.clock),
            entropy: Arc::clone(&entropy),
            metrics: Arc::clone(&base.metrics),
            recent: Arc::clone(&base.recent),
            denials: Denials::default(),
            reveals: Reveals::new(settings.max_reveals_per_minute),
            webhooks: Arc::clone(&webhooks),
            forbid_recoverable: settings.forbid_recoverable,
            max_key_age: settings.max_key_age,
        };
        let (health, health_server) = tonic_health::server::health_reporter();
        // Set before the service reports that it is ready.
        set_health(&health, true).await;
        tracing::info!(applied = base.fence.applied(), "fresh: serving");
        let api = Api::new(
            Arc::new(service),
            Arc::new(callers),
            settings.trusted_proxies.clone(),
        );
        let clock = Arc::clone(&base.clock);
        let thread_error = |error| StartError(format!("cannot start the serving threads: {error}"));
        let long_calls = LongCalls::start(settings.workers).map_err(thread_error)?;
        let front = Front {
            limits: components::limits(settings.max_connections, settings.max_buffered_bytes),
            max_connection_age: settings.max_connection_age,
            long_calls: &long_calls,
            sampling: settings.telemetry.sampling(),
        };
        let server = grpc::server(
            api.clone(),
            health_server,
            &base.metrics.ports,
            clock,
            &front,
        )?;
        let stop = &base.stops.serving;
        let (count, ports) = (settings.workers, &base.metrics.ports);
        let workers = Workers::start(count, &server, tls.as_ref(), ports, &base.tasks, stop);
        let workers = workers.map_err(thread_error)?;
        let listeners = Listeners {
            grpc: listener,
            http: match rest {
                Some(rest) => {
                    let (proxies, origins) = (
                        settings.trusted_proxies.clone(),
                        &settings.rest_cors_origins,
                    );
                    let port: Arc<dyn Http> = Arc::new(Rest::new(proxies, origins, &*entropy)?);
                    Some((Listener::Tcp(rest), port))
                }
                None => None,
            },
        };
        let mut background = base.background(&tail);
        background.push(base.use_writer(settings.use_interval, l1, foreign_l1));
        background.push(base.audit_task(settings, &keyring, &entropy));
        background.extend(base.webhook_tasks(settings, &webhooks));
        background.extend(base.keyring_tasks(watch, keyring, entropy));
        background.extend(watching.map(|watching| base.tasks.spawn("confirmer", watching)));
        let metrics = base.shown_metrics();
        if let Some(telemetry) = telemetry {
            let metrics = Arc::clone(&metrics);
            telemetry.of(move || metrics());
        }
        background.extend(
            side.map(|side| base.side_port(side, settings.http_hosts.clone(), &tail, metrics)),
        );
        background.extend(tls.map(|tls| base.certificate(tls)));
        Ok(Self {
            grpc,
            rest: rest_address,
            http,
            api,
            watch: base.watch(health.clone()),
            health,
            background,
            acceptor: {
                let accepting = grpc::accept(listeners, workers, stop.clone());
                base.tasks.spawn("acceptor", accepting)
            },
            tasks: base.tasks,
            near: base.near,
            near_max_staleness: settings.near_max_staleness,
            store: base.store,
            control: base.control,
            stops: base.stops,
            drain_delay: settings.drain_delay,
            _long_calls: long_calls,
        })
    }

    /// Waits until a long-lived task has ended by itself. The service must stop then.
    pub async fn task_ended(&self) -> Ended {
        self.tasks.ended().await
    }

    /// Where the gRPC service listens.
    pub fn listens_on(&self) -> &Listen {
        &self.grpc
    }

    /// The address of the gRPC port.
    ///
    /// # Panics
    ///
    /// The service listens on a Unix socket.
    #[expect(clippy::expect_used, reason = "tests know what they listen on")]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.address().expect("the service has a gRPC port")
    }

    /// The handler of the gRPC port, for tests that call it directly.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The address of the JSON port, if there is one.
    pub fn rest_address(&self) -> Option<SocketAddr> {
        self.rest
    }

    /// The address of the side port, if there is one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }
}

/// How many connections the files that the process may open allow.
fn file_limit() -> usize {
    open_files().saturating_sub(RESERVED_FILES)
}

/// A warning if `max_connections` needs more files than the process may open.
fn too_few_files(max_connections: usize) -> Option<String> {
    let files = file_limit();
    (files < max_connections).then(|| {
        format!(
            "the limit of open files (`ulimit -n`) allows only {files} of {max_connections} connections \
             (`max_connections`); raise it"
        )
    })
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
