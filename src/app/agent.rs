//! Runs an agent: starts it, and stops it in order.

mod health;
mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyward_client::near::{Fallback, NearCache, NearCacheOptions};
use keyward_client::{Client, Error, ErrorKind, Secret, VerifyRequest};
use keyward_core::key::TextForm;
use keyward_crypto::private_file::{self, PrivateFileError};
use keyward_ops::traces::propagate;
use keyward_ops::{MetricsExport, OtherCrates, Tasks, http};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use health::{Health, readiness};
pub use metrics::AgentMetrics;

use super::StartError;
use super::components::{self, ShownMetrics};
use super::ports::{bind, listen};
use super::run::{Signals, on_control, prepare, report_ready};
use super::stop::{CALLS, STEP, within};
use crate::config::{AgentSettings, Listen};
use crate::grpc::{
    self, Agent, Front, Http, Listeners, LocalCallers, LongCalls, Workers, agent_server,
};
use crate::rest::Rest;
use crate::system::{SystemClock, SystemEntropy};

/// How long a start waits until the agent is fresh. Later it goes on without.
const START: Duration = Duration::from_secs(5);
const START_CHECK: Duration = Duration::from_millis(10);
/// How often the file of the local token is read.
const TOKEN_CHECK: Duration = Duration::from_secs(2);
/// The lengths of a local token: a shorter one could be guessed.
const TOKEN: std::ops::RangeInclusive<usize> = 16..=256;
const MAX_TOKEN_FILE: usize = 1024;
/// The reason of an instance that keeps no more near-caches fresh.
const EXHAUSTED: &str = "NEAR_CACHES_EXHAUSTED";

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
///
/// Why it did not start, or which task ended and how.
pub fn serve_agent(settings: &AgentSettings) -> Result<(), StartError> {
    let others = OtherCrates::WarningsOnly;
    let telemetry = prepare(&settings.telemetry, "keyward-agent", others)?;
    on_control(settings.workers, 1, run(settings, telemetry.metrics()))
}

async fn run(settings: &AgentSettings, export: Option<MetricsExport>) -> Result<(), StartError> {
    let mut signals = Signals::catch()?;
    let running = tokio::select! {
        running = Running::start(settings, export) => running?,
        () = signals.stop() => return Ok(()),
    };
    let http = ("http_listen", running.http.as_ref().map(Listen::to_string));
    let side = (
        "side_listen",
        running.side.map(|address| address.to_string()),
    );
    let format = settings.telemetry.log_format;
    report_ready("keyward agent", &running.grpc, http, side, format);
    tokio::select! {
        () = signals.stop() => {}
        ended = running.tasks.ended() => {
            tracing::error!("stopping: {ended}");
            running.stop().await;
            return Err(ended.into());
        }
    }
    tracing::info!("stopping: calls in progress can finish");
    tokio::select! {
        () = running.stop() => {
            tracing::info!("stopped");
            Ok(())
        }
        interrupted = signals.interrupt() => Err(interrupted),
    }
}

/// A running agent.
struct Running {
    grpc: Listen,
    http: Option<Listen>,
    side: Option<SocketAddr>,
    near: NearCache,
    health: Health,
    acceptor: JoinHandle<Option<Workers>>,
    background: Vec<JoinHandle<Option<()>>>,
    tasks: Tasks,
    stop: CancellationToken,
    _long_calls: LongCalls,
}

impl Running {
    async fn start(
        settings: &AgentSettings,
        export: Option<MetricsExport>,
    ) -> Result<Self, StartError> {
        let mode = settings.socket_mode;
        let (listener, grpc) = listen("listen", &settings.listen, mode).await?;
        let http = match &settings.http_listen {
            Some(at) => Some(listen("http_listen", at, mode).await?),
            None => None,
        };
        let side = bind("side_listen", settings.side_listen).await?;
        let callers = Arc::new(LocalCallers::new(local_token(settings)?));
        let client = client(settings)?;
        let near = near_cache(settings, &client).await?;

        let (tasks, stop) = (Tasks::default(), CancellationToken::new());
        let metrics = AgentMetrics::new();
        let thread_error = |error| StartError(format!("cannot start the serving threads: {error}"));
        let long_calls = LongCalls::start(settings.workers).map_err(thread_error)?;
        let front = Front {
            limits: components::limits(settings.max_connections, settings.max_buffered_bytes),
            max_connection_age: None,
            long_calls: &long_calls,
            sampling: settings.telemetry.sampling(),
        };
        let proxies = settings.trusted_proxies.clone();
        let health = Health::follow(&near, settings.calls_if_not_fresh, &tasks).await;
        let reporter = health.reporter.clone();
        let agent = Agent::new(
            near.clone(),
            client,
            Arc::clone(&callers),
            proxies,
            reporter,
        );
        let server = agent_server(agent, &metrics.ports, Arc::new(SystemClock), &front);
        let (count, ports) = (settings.workers, &metrics.ports);
        let workers = Workers::start(count, &server, None, ports, &tasks, &stop);
        let workers = workers.map_err(thread_error)?;
        let (http_listener, http) = http.unzip();
        let listeners = Listeners {
            grpc: listener,
            http: match http_listener {
                Some(listener) => Some((listener, rest(settings)?)),
                None => None,
            },
        };
        let mut background = Vec::new();
        let local_side = side.as_ref().and_then(|port| port.local_addr().ok());
        let shown: ShownMetrics = {
            let near = near.clone();
            Arc::new(move || metrics.encode(near.stats()))
        };
        if let Some(export) = export {
            let shown = Arc::clone(&shown);
            export.of(move || shown());
        }
        background.extend(side.map(|port| side_port(port, settings, &near, shown, &tasks, &stop)));
        if let Some(file) = settings.local_token_file.clone() {
            let following = follow_token(settings.clone(), file, callers, stop.clone());
            background.push(tasks.spawn("local token", following));
        }
        Ok(Self {
            grpc,
            http,
            side: local_side,
            near,
            health,
            background,
            acceptor: tasks.spawn("acceptor", grpc::accept(listeners, workers, stop.clone())),
            tasks,
            stop,
            _long_calls: long_calls,
        })
    }

    /// Stops in order: takes no more calls, tells Keyward that the agent is off, drains.
    async fn stop(mut self) {
        self.tasks.stop();
        self.health.stop().await;
        self.stop.cancel();
        let draining = async {
            if let Ok(Some(workers)) = self.acceptor.await {
                within(CALLS, "calls", workers.ended()).await;
            }
        };
        // A Revoke waits for the near-cache until that is off.
        tokio::join!(self.near.close(), draining);
        let tasks = futures_util::future::join_all(&mut self.background);
        within(STEP, "background tasks", tasks).await;
    }
}

/// Answers requests of plain HTTP.
fn rest(settings: &AgentSettings) -> Result<Arc<dyn Http>, StartError> {
    let port = Rest::new(settings.trusted_proxies.clone(), &[], &SystemEntropy)?;
    Ok(Arc::new(match settings.local_token_file {
        Some(_) => port,
        None => port.without_token(),
    }))
}

/// The token that local programs send.
fn local_token(settings: &AgentSettings) -> Result<Option<Secret>, StartError> {
    let Some(file) = &settings.local_token_file else {
        return Ok(None);
    };
    let wrong = |what: &str| StartError(format!("local_token_file {}: {what}", file.display()));
    let bytes = private_file::read(file, MAX_TOKEN_FILE).map_err(|error| match error {
        PrivateFileError::NoFile => wrong("is not a regular file"),
        PrivateFileError::Exposed => wrong(
            "every user of this machine can read or change it: make another token, and run `chmod o-rwx` on \
             its file",
        ),
        PrivateFileError::TooLong => wrong("is too long"),
        PrivateFileError::Read(error) => wrong(&error.to_string()),
    })?;
    let text = bytes.trim_ascii();
    let is_token = TOKEN.contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
    if !is_token {
        return Err(wrong(
            "it must hold one token of 16 to 256 visible ASCII characters, such as those that \
             `openssl rand -hex 32` prints",
        ));
    }
    let text = std::str::from_utf8(text).unwrap_or_default();
    if TextForm::is_token(text) {
        return Err(wrong(
            "it holds a token of Keyward, which the agent would pass on once the file changes: make another one",
        ));
    }
    Ok(Some(Secret::new(text)))
}

/// Reads the local token again when its file changes, until `stop`. A file without a token changes nothing.
async fn follow_token(
    settings: AgentSettings,
    file: std::path::PathBuf,
    callers: Arc<LocalCallers>,
    stop: CancellationToken,
) {
    let mut is_logged = false;
    while let Some(()) = stop.run_until_cancelled(sleep(TOKEN_CHECK)).await {
        let again = settings.clone();
        // Reading files can block.
        let read = tokio::task::spawn_blocking(move || local_token(&again)).await;
        match read {
            Ok(Ok(Some(token))) => {
                is_logged = false;
                if callers.expect(token) {
                    tracing::info!(file = %file.display(), "the local token changed");
                }
            }
            Ok(Err(error)) if !std::mem::replace(&mut is_logged, true) => {
                tracing::warn!(%error, "the last local token stays in use");
            }
            _ => {}
        }
    }
}

fn client(settings: &AgentSettings) -> Result<Client, StartError> {
    let builder = Client::builder()
        .endpoints(settings.endpoints.iter().cloned())
        .timeout(settings.timeout)
        .insecure(settings.insecure)
        .headers(propagate);
    let builder = match &settings.ca_file {
        Some(file) => builder.ca_file(file),
        None => builder,
    };
    let builder = match &settings.token_file {
        Some(file) => builder.token_file(file),
        None => builder,
    };
    let builder = match (&settings.client_certificate, &settings.client_key) {
        (Some(certificate), Some(key)) => builder.client_certificate(certificate, key),
        _ => builder,
    };
    Ok(builder.build()?)
}

/// How an agent shows who it is, and the end of the command that creates it as a caller.
fn proof(settings: &AgentSettings) -> (String, &'static str) {
    match (&settings.token_file, &settings.client_certificate) {
        (None, Some(file)) => (
            format!("client_certificate {}", file.display()),
            " --san NAME_IN_CERTIFICATE",
        ),
        (file, _) => {
            let file = file.as_ref().map(|file| file.display().to_string());
            (format!("token_file {}", file.unwrap_or_default()), "")
        }
    }
}

/// The near-cache of an agent that is a caller with both roles, as far as Keyward says now.
async fn near_cache(settings: &AgentSettings, client: &Client) -> Result<NearCache, StartError> {
    let refused = |error: &Error| {
        let (proof, san) = proof(settings);
        StartError(format!(
            "{proof}: {error}. An agent needs the roles near_cache and verifier: \
             keyward token create NAME --role near_cache --role verifier{san}"
        ))
    };
    // No key has this text: only the token is judged.
    let probe = client
        .verify(VerifyRequest::new(Secret::new("agent")))
        .await;
    let mut options = NearCacheOptions::default();
    options.max_bytes = u64::try_from(settings.max_cached_bytes).unwrap_or(u64::MAX);
    options.fallback = match settings.calls_if_not_fresh {
        true => Fallback::Call,
        false => Fallback::Fail,
    };
    let near = client.near_cache(options)?;
    if let Err(error) = probe {
        if error.kind == ErrorKind::Unauthorized {
            return Err(refused(&error));
        }
        tracing::warn!(%error, "Keyward does not answer; the agent starts without it");
        return Ok(near);
    }
    let limit = Instant::now() + START;
    while !near.is_fresh() && Instant::now() < limit {
        match near.trouble() {
            Some(error) if error.kind == ErrorKind::Unauthorized => return Err(refused(&error)),
            // This caller goes on with calls.
            Some(error) if error.reason.as_deref() == Some(EXHAUSTED) => break,
            _ => sleep(START_CHECK).await,
        }
    }
    if !near.is_fresh() {
        let trouble = near.trouble().map(|error| error.to_string());
        let trouble = trouble.unwrap_or_default();
        tracing::warn!("the agent is not fresh yet: {trouble}");
    }
    Ok(near)
}

fn side_port(
    listener: TcpListener,
    settings: &AgentSettings,
    near: &NearCache,
    metrics: ShownMetrics,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> JoinHandle<Option<()>> {
    let (near, calls, stopping) = (near.clone(), settings.calls_if_not_fresh, stop.clone());
    let probes = http::Probes {
        name: "keyward agent",
        metrics: Box::new(move || metrics()),
        ready: Box::new(move || match stopping.is_cancelled() {
            true => Err("stopping".to_owned()),
            false => readiness(&near, calls),
        }),
        page: None,
    };
    let stop = stop.clone().cancelled_owned();
    tasks.spawn("side port", async move {
        if let Err(error) = http::serve(listener, probes, stop).await {
            tracing::error!(%error, "the side port failed");
        }
    })
}
