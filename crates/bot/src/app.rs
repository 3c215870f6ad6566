//! Puts the parts of the bot together, starts them and stops them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::join_all;
use keyward_ops::traces::{Sampling, propagate};
use keyward_ops::{Ended, LogFormat, MetricsExport, Tasks, http};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::account::Accounts;
use crate::authority::Authority;
use crate::handler::Handler;
use crate::health::{self, Health};
use crate::host::Host;
use crate::i18n::Texts;
use crate::intake::Intake;
use crate::limits::{Limit, Limits};
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::revoke_outcomes::RevokeOutcomes;
use crate::screens::Screens;
use crate::settings::{BotSettings, Settings, WebhookSettings};
use crate::telegram::Telegram;
use crate::telegram::failure::Failure;
use crate::tracked::TrackedMessages;
use crate::{updates, webhook};

/// Timeout of updates in flight at a stop. Telegram repeats an unfinished update that is not confirmed.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of hiding all shown keys at a stop.
const HIDE_TIMEOUT: Duration = Duration::from_secs(12);
/// Timeout of the listeners at a stop.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the bot cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, or belongs to another host.
    #[error("{0}: cannot listen on {1}: {2}")]
    Listen(&'static str, SocketAddr, std::io::Error),
    /// The client of Keyward cannot be created.
    #[error("{0}")]
    Keyward(#[from] keyward_client::BuildError),
    /// An HTTP client cannot be created.
    #[error("{0}")]
    Http(String),
    /// Telegram refuses the token of every bot.
    #[error("Telegram does not know this bot: check telegram_token and telegram_api_url")]
    Unauthorized,
    /// A long-lived task ended by itself. The text of its panic may contain what a user wrote.
    #[error("the task '{0}' ended; the log has the place of a panic")]
    Task(String),
    /// No signal handler can be installed.
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// Why it cannot start.
pub async fn run(settings: Settings, telemetry: Option<MetricsExport>) -> Result<(), StartError> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let mut term = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    let format = settings.telemetry.log_format;
    serve(settings, telemetry, stop, |ready| {
        print_ready(format, &ready)
    })
    .await
}

/// A bot that serves users, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The name of the bot.
    pub username: String,
    /// The address of the side port.
    pub http: Option<SocketAddr>,
    /// The address of the webhook.
    pub webhook: Option<SocketAddr>,
}

/// Serves until `stop`, then stops in order. Calls `ready` for each bot, when Telegram knows it.
///
/// # Errors
///
/// Why no bot can start.
pub async fn serve(
    settings: Settings,
    telemetry: Option<MetricsExport>,
    stop: CancellationToken,
    ready: impl Fn(Ready),
) -> Result<(), StartError> {
    let metrics = Arc::default();
    let sampling = settings.telemetry.sampling();
    let (mut bots, mut webhooks) = (Vec::new(), Vec::new());
    for (handler, settings) in build(&settings, &metrics)?.into_iter().zip(&settings.bots) {
        let webhook = match &settings.webhook {
            Some(webhook) => Some(bind("webhook_listen", webhook.listen).await?),
            None => None,
        };
        bots.push(Bot::new(handler, settings, sampling));
        webhooks.push(webhook);
    }
    let bots = Arc::new(bots);
    // The listeners end last, so that probes see the stop.
    let end_listeners = CancellationToken::new();
    let (tasks, listeners) = (Tasks::default(), TaskTracker::new());
    let shown = shown_metrics(&bots, metrics);
    if let Some(telemetry) = telemetry {
        let shown = Arc::clone(&shown);
        telemetry.of(move || shown());
    }
    let http = match settings.http_listen {
        Some(address) => {
            let (listener, bound) = bind("http_listen", address).await?;
            let probes = probes(&bots, shown);
            let stop = end_listeners.clone().cancelled_owned();
            listeners.spawn(tasks.supervise("side port", async {
                drop(http::serve(listener, probes, stop).await);
            }));
            Some(bound)
        }
        None => None,
    };
    let serving = bots.iter().zip(webhooks).map(|(bot, webhook)| {
        let ready = &ready;
        let (listener, webhook) = webhook.unzip();
        let ready = move |username: &str| {
            let username = username.to_owned();
            ready(Ready {
                username,
                http,
                webhook,
            });
        };
        let serving = bot.serve(listener, &tasks, &listeners, &stop, ready);
        serving.instrument(bot.span.clone())
    });
    let failure = tokio::select! {
        // Before a stop, a bot ends only because Telegram refuses its token.
        _ = join_all(serving) => (!stop.is_cancelled()).then_some(StartError::Unauthorized),
        ended = ended_early(&tasks, &stop) => Some(StartError::Task(ended.name().to_owned())),
    };
    tasks.stop();
    join_all(bots.iter().map(Bot::finish)).await;
    end_listeners.cancel();
    listeners.close();
    drop(timeout(LISTENER_TIMEOUT, listeners.wait()).await);
    failure.map_or(Ok(()), Err)
}

/// The text of all metrics. It updates the gauges.
type ShownMetrics = Arc<dyn Fn() -> String + Send + Sync>;

fn shown_metrics(bots: &Arc<Vec<Bot>>, metrics: Arc<Metrics>) -> ShownMetrics {
    let bots = Arc::clone(bots);
    Arc::new(move || {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let in_flight = bots.iter().map(|bot| bot.intake.in_flight().count());
        metrics.in_flight.set(count(in_flight.sum()));
        let unserved = bots.iter().filter(|bot| bot.health.ready().is_err());
        metrics.unserved.set(count(unserved.count()));
        metrics.encode()
    })
}

fn probes(bots: &Arc<Vec<Bot>>, metrics: ShownMetrics) -> http::Probes {
    let bots = Arc::clone(bots);
    http::Probes {
        name: "keyward-bot",
        page: None,
        metrics: Box::new(move || metrics()),
        ready: Box::new(move || {
            health::of_all(bots.iter().map(|bot| (bot.name.as_str(), &bot.health)))
        }),
    }
}

/// A bot: what receives its updates. Bots fail one by one, and share what bounds the process.
struct Bot {
    /// Its Telegram id.
    name: String,
    span: Span,
    telegram: Arc<Telegram>,
    intake: Arc<Intake>,
    health: Health,
    webhook: Option<WebhookSettings>,
    deletes_webhook: bool,
}

impl Bot {
    fn new(handler: Handler, settings: &BotSettings, sampling: Sampling) -> Self {
        let span = tracing::error_span!("bot", id = settings.id());
        Self {
            name: settings.id().to_owned(),
            span: span.clone(),
            telegram: Arc::clone(&handler.messages.telegram),
            intake: Arc::new(Intake::new(handler, span, sampling)),
            health: Health::new(settings.webhook.is_some()),
            webhook: settings.webhook.clone(),
            deletes_webhook: settings.delete_webhook,
        }
    }

    /// Serves users until `stop`, or until Telegram refuses the token.
    async fn serve(
        &self,
        listener: Option<TcpListener>,
        tasks: &Tasks,
        listeners: &TaskTracker,
        stop: &CancellationToken,
        ready: impl FnOnce(&str),
    ) {
        if !self.introduce(stop).await {
            return;
        }
        if self.webhook.is_none() {
            // The first poll may wait long, but Telegram has answered a call already.
            self.health.set(Ok(()));
        }
        ready(self.telegram.username());
        let (sweeper, until) = (Arc::clone(&self.intake), stop.clone());
        tasks.spawn("sweeper", async move { sweeper.sweep(until).await });
        let (Some(settings), Some(listener)) = (&self.webhook, listener) else {
            return updates::poll(&self.intake, &self.telegram, &self.health, stop).await;
        };
        let (path, secret) = (
            settings.url.uri().path().to_owned(),
            settings.secret.clone(),
        );
        let (target, until) = (Arc::clone(&self.intake), stop.clone());
        listeners.spawn(tasks.supervise("webhook", async move {
            webhook::serve(listener, path, secret, target, until).await;
        }));
        let (url, secret) = (settings.url.expose(), &settings.secret);
        webhook::watch(&self.telegram, &self.health, url, secret, stop).await;
    }

    /// Waits until Telegram knows the bot, registers the commands, and deletes a webhook on demand.
    /// Returns `false` if `stop` came first, or if Telegram refuses the token.
    async fn introduce(&self, stop: &CancellationToken) -> bool {
        let (telegram, mut outage) = (&self.telegram, Outage::default());
        loop {
            match stop.run_until_cancelled(telegram.introduce()).await {
                None => return false,
                Some(Ok(())) => break,
                Some(Err(failure @ Failure::Unauthorized)) => {
                    tracing::error!(%failure, "this bot is not served; restart with another token");
                    self.health.set(Err(failure.to_string()));
                    return false;
                }
                Some(Err(failure)) => outage.goes_on(&failure, &self.health, stop).await,
            }
        }
        // The bot works without the list of commands.
        let texts = Texts::default();
        let commands = telegram.set_commands(&texts);
        if let Some(Err(failure)) = stop.run_until_cancelled(commands).await {
            tracing::warn!(%failure, "cannot register the list of commands");
        }
        if self.deletes_webhook {
            let deleted = stop.run_until_cancelled(telegram.delete_webhook()).await;
            if let Some(Err(failure)) = deleted {
                tracing::warn!(%failure, "cannot delete the webhook");
            }
        }
        true
    }

    /// Waits for the updates in flight, confirms them if they were polled, and hides all keys.
    async fn finish(&self) {
        self.health.set(Err("stopping".to_owned()));
        self.intake.messages().stop_showing();
        if timeout(FINISH_TIMEOUT, self.intake.wait_idle())
            .await
            .is_err()
        {
            tracing::warn!(
                "updates still run after {FINISH_TIMEOUT:?}; Telegram repeats those that are not confirmed"
            );
        }
        if self.webhook.is_none() {
            updates::confirm(&self.intake, &self.telegram).await;
        }
        let hiding = self.intake.messages().replace_all();
        if timeout(HIDE_TIMEOUT, hiding).await.is_err() {
            tracing::warn!("cannot hide all keys within {HIDE_TIMEOUT:?}");
        }
    }
}

/// Waits for the end of a task before `stop`.
async fn ended_early(tasks: &Tasks, stop: &CancellationToken) -> Ended {
    let ended = tasks.ended().await;
    if stop.is_cancelled() {
        std::future::pending::<()>().await;
    }
    ended
}

/// Builds the parts that handle the updates of each bot. Makes no call.
pub(crate) fn build(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Handler>, StartError> {
    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    let mut client = keyward_client::Client::builder()
        .endpoints(settings.endpoints.clone())
        .insecure(settings.insecure)
        .headers(propagate);
    if let Some(file) = &settings.token_file {
        client = client.token_file(file);
    }
    if let (Some(certificate), Some(key)) = (&settings.client_certificate, &settings.client_key) {
        client = client.client_certificate(certificate, key);
    }
    if let Some(file) = &settings.ca_file {
        client = client.ca_file(file);
    }
    let client = client.build()?;
    let limits = Arc::new(Limits {
        reveals: Limit::new(settings.reveals_per_hour, HOUR),
        revokes: Limit::new(settings.revokes_per_hour, HOUR),
        updates: Limit::new(settings.updates_per_minute, MINUTE),
    });
    let tracked = Arc::<TrackedMessages>::default();
    let outcomes = Arc::<RevokeOutcomes>::default();
    let handler = |(number, bot): (usize, &BotSettings)| {
        let (token, url) = (&bot.telegram_token, &bot.telegram_api_url);
        let telegram = Telegram::new(token, url, Arc::clone(metrics));
        let screens = Screens {
            slots: bot.slots.clone(),
            hide_after: settings.hide_after,
            revoke_grace: bot.revoke_grace,
            support: bot.support.clone(),
            ..Screens::default()
        };
        let messages = Messages {
            bot: number,
            telegram: Arc::new(telegram.map_err(StartError::Http)?),
            screens,
            tracked: Arc::clone(&tracked),
            metrics: Arc::clone(metrics),
            is_stopping: AtomicBool::new(false),
        };
        let authority = Authority {
            client: client.clone(),
            scopes: bot.scopes.clone(),
            metrics: Arc::clone(metrics),
        };
        let accounts = match bot.host.clone() {
            None => Accounts::Template(bot.template.clone()),
            Some(host) => {
                let host = Host::new(host, Arc::clone(metrics));
                Accounts::Host(host.map_err(StartError::Http)?)
            }
        };
        Ok(Handler {
            messages: Arc::new(messages),
            authority,
            accounts,
            limits: Arc::clone(&limits),
            outcomes: Arc::clone(&outcomes),
            metrics: Arc::clone(metrics),
        })
    };
    settings.bots.iter().enumerate().map(handler).collect()
}

async fn bind(
    name: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen(name, address, error);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Prints one line on stderr, at every log level.
fn print_ready(format: LogFormat, ready: &Ready) {
    use std::io::Write as _;

    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let (http, webhook) = (text(ready.http), text(ready.webhook));
    let line = match format {
        LogFormat::Text => {
            let http = http.map_or_else(|| "off".to_owned(), |at| format!("on {at}"));
            let webhook = webhook.map_or_else(String::new, |at| format!(", webhook on {at}"));
            let name = &ready.username;
            format!("keyward-bot is ready: @{name}, metrics and probes {http}{webhook}")
        }
        LogFormat::Json => serde_json::json!({
            "message": "keyward-bot is ready",
            "username": ready.username,
            "http_listen": http,
            "webhook_listen": webhook,
        })
        .to_string(),
    };
    // A closed stderr is not a failure.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
