//! Puts the parts of the bot together, starts them and stops them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyward_ops::{Ended, LogFormat, Tasks, http};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::handler::Handler;
use crate::health::Health;
use crate::i18n::Texts;
use crate::intake::Intake;
use crate::limits::{Limit, Limits};
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::revoke_outcomes::RevokeOutcomes;
use crate::screens::Screens;
use crate::settings::Settings;
use crate::telegram::Telegram;
use crate::telegram::failure::Failure;
use crate::{updates, webhook};

/// Timeout of updates in flight at a stop. Telegram repeats an unfinished update.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of hiding all shown keys at a stop.
const HIDE_TIMEOUT: Duration = Duration::from_secs(12);
/// Timeout of the listeners at a stop.
const LISTENER_TIMEOUT: Duration = Duration::from_secs(2);

type Parts = (Arc<Telegram>, Arc<Messages>, Handler);

/// Why the bot cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use, or belongs to another host.
    #[error("{0}: cannot listen on {1}: {2}")]
    Listen(&'static str, SocketAddr, std::io::Error),
    /// The client of Keyward cannot be created.
    #[error("{0}")]
    Keyward(#[from] keyward_client::BuildError),
    /// The client of Telegram cannot be created.
    #[error("{0}")]
    Telegram(String),
    /// Telegram refuses the token.
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
pub async fn run(settings: Settings) -> Result<(), StartError> {
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
    serve(settings, stop, |ready| print_ready(&ready)).await
}

/// The addresses of a bot that serves users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The name of the bot.
    pub username: String,
    /// The address of the side port.
    pub http: Option<SocketAddr>,
    /// The address of the webhook.
    pub webhook: Option<SocketAddr>,
    format: LogFormat,
}

/// Serves until `stop`, then stops in order. Calls `ready` once, when Telegram knows the bot.
///
/// # Errors
///
/// Why it cannot start.
pub async fn serve(
    settings: Settings,
    stop: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), StartError> {
    let metrics = Arc::default();
    let (telegram, messages, handler) = build(&settings, &metrics)?;
    let intake = Arc::new(Intake::new(handler, Arc::clone(&telegram)));
    let health = Arc::new(Health::new(settings.webhook.is_some()));
    // The listeners end last, so that probes see the stop.
    let end_listeners = CancellationToken::new();
    let tasks = Tasks::default();
    let mut listeners = JoinSet::new();
    let http = match settings.http_listen {
        Some(address) => {
            let (listener, bound) = bind("http_listen", address).await?;
            let (observed, health) = (Arc::clone(&intake), Arc::clone(&health));
            let probes = http::Probes {
                page: None,
                name: "keyward-bot",
                metrics: Box::new(move || {
                    observed.observe();
                    metrics.encode()
                }),
                ready: Box::new(move || health.ready().map(|()| "ok".to_owned())),
            };
            let stop = end_listeners.clone().cancelled_owned();
            listeners.spawn(tasks.supervise("side port", async {
                drop(http::serve(listener, probes, stop).await);
            }));
            Some(bound)
        }
        None => None,
    };
    let webhook = match settings.webhook {
        Some(webhook) => {
            let (listener, bound) = bind("webhook_listen", webhook.listen).await?;
            Some((webhook, listener, bound))
        }
        None => None,
    };
    if !introduce(&telegram, &health, settings.delete_webhook, &stop).await? {
        return Ok(());
    }
    ready(Ready {
        username: telegram.username().to_owned(),
        http,
        webhook: webhook.as_ref().map(|(_, _, bound)| *bound),
        format: settings.log_format,
    });
    let is_polled = webhook.is_none();
    let (sweeper, until) = (Arc::clone(&intake), stop.clone());
    tasks.spawn("sweeper", async move { sweeper.sweep(until).await });
    let receiving = async {
        if let Some((settings, listener, _)) = webhook {
            let (path, secret) = (settings.path, settings.secret.clone());
            let (target, until) = (Arc::clone(&intake), stop.clone());
            listeners.spawn(tasks.supervise("webhook", async move {
                drop(webhook::serve(listener, &path, secret, target, until).await);
            }));
            webhook::watch(&telegram, &health, &settings.url, &settings.secret, &stop).await;
        } else {
            updates::poll(&intake, &telegram, &health, &stop).await;
        }
    };
    let missing = tokio::select! {
        () = receiving => None,
        ended = ended_early(&tasks, &stop) => Some(ended),
    };
    tasks.stop();
    health.set(Err("stopping".to_owned()));
    finish(&intake, &telegram, &messages, is_polled).await;
    end_listeners.cancel();
    let ended = async { while listeners.join_next().await.is_some() {} };
    drop(timeout(LISTENER_TIMEOUT, ended).await);
    missing.map_or(Ok(()), |ended| {
        Err(StartError::Task(ended.name().to_owned()))
    })
}

/// Waits for the end of a task before `stop`.
async fn ended_early(tasks: &Tasks, stop: &CancellationToken) -> Ended {
    let ended = tasks.ended().await;
    if stop.is_cancelled() {
        std::future::pending::<()>().await;
    }
    ended
}

/// Waits for the updates in flight, confirms them if they were polled, and hides all keys.
async fn finish(intake: &Intake, telegram: &Telegram, messages: &Messages, is_polled: bool) {
    if timeout(FINISH_TIMEOUT, intake.wait_idle()).await.is_err() {
        tracing::warn!("updates still run after {FINISH_TIMEOUT:?}; Telegram repeats them");
    }
    if is_polled {
        updates::confirm(intake, telegram).await;
    }
    if timeout(HIDE_TIMEOUT, messages.replace_all()).await.is_err() {
        tracing::warn!("cannot hide all keys within {HIDE_TIMEOUT:?}");
    }
}

/// Builds the parts that handle updates. Makes no call.
pub(crate) fn build(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Parts, StartError> {
    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    let mut client = keyward_client::Client::builder()
        .endpoints(settings.endpoints.clone())
        .token_file(&settings.token_file)
        .insecure(settings.insecure);
    if let Some(file) = &settings.ca_file {
        client = client.ca_file(file);
    }
    let (token, url) = (&settings.telegram_token, &settings.telegram_api_url);
    let telegram = Telegram::new(token, url, Arc::clone(metrics));
    let telegram = Arc::new(telegram.map_err(StartError::Telegram)?);
    let screens = Screens::new(settings.hide_after, settings.support.as_deref());
    let messages = Messages::new(Arc::clone(&telegram), screens, Arc::clone(metrics));
    let messages = Arc::new(messages);
    let authority = Authority {
        client: client.build()?,
        slot: settings.slot.clone(),
        scopes: settings.scopes.clone(),
        metrics: Arc::clone(metrics),
    };
    let limits = Limits {
        reveals: Limit::new(settings.reveals_per_hour, HOUR),
        revokes: Limit::new(settings.revokes_per_hour, HOUR),
        updates: Limit::new(settings.updates_per_minute, MINUTE),
    };
    let handler = Handler {
        messages: Arc::clone(&messages),
        authority,
        accounts: settings.accounts.clone(),
        limits,
        outcomes: RevokeOutcomes::default(),
        metrics: Arc::clone(metrics),
    };
    Ok((telegram, messages, handler))
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

/// Waits until Telegram knows the bot, registers the commands, and deletes a webhook on demand.
/// Returns `false` if `stop` came first.
async fn introduce(
    telegram: &Telegram,
    health: &Health,
    deletes_webhook: bool,
    stop: &CancellationToken,
) -> Result<bool, StartError> {
    let mut outage = Outage::default();
    loop {
        match stop.run_until_cancelled(telegram.introduce()).await {
            None => return Ok(false),
            Some(Ok(())) => break,
            Some(Err(Failure::Unauthorized)) => return Err(StartError::Unauthorized),
            Some(Err(failure)) => outage.goes_on(&failure, health, stop).await,
        }
    }
    // The bot works without the list of commands.
    let texts = Texts::default();
    let commands = telegram.set_commands(&texts);
    if let Some(Err(failure)) = stop.run_until_cancelled(commands).await {
        tracing::warn!(%failure, "cannot register the list of commands");
    }
    if deletes_webhook {
        let deleted = stop.run_until_cancelled(telegram.delete_webhook()).await;
        if let Some(Err(failure)) = deleted {
            tracing::warn!(%failure, "cannot delete the webhook");
        }
    }
    Ok(true)
}

/// Prints one line on stderr, at every log level.
fn print_ready(ready: &Ready) {
    use std::io::Write as _;

    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let (http, webhook) = (text(ready.http), text(ready.webhook));
    let line = match ready.format {
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
