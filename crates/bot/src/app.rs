//! The bot from its start to its stop, and the only place that puts all parts together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyward_ops::{LogFormat, http};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::board::Board;
use crate::confirmed::Confirmed;
use crate::desk::Desk;
use crate::handler::Handler;
use crate::health::Health;
use crate::limits::{Limit, Limits};
use crate::metrics::Metrics;
use crate::screens::Screens;
use crate::settings::Settings;
use crate::shown::Shown;
use crate::telegram::Telegram;
use crate::telegram::failure::Failure;
use crate::{updates, webhook};

/// How long updates under way may take to end at a stop. What does not comes again.
const GRACE: Duration = Duration::from_secs(10);
/// How long hiding the keys that are shown may take.
const HIDING: Duration = Duration::from_secs(12);
/// How often to look whether Telegram delivers updates.
const LOOKING: Duration = Duration::from_secs(10);
/// How long a listener may take to end.
const LISTENERS: Duration = Duration::from_secs(2);

/// Why the bot cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or is not here.
    #[error("{0} = '{1}': {2}")]
    Listen(&'static str, SocketAddr, std::io::Error),
    /// The client of Keyward cannot be set up.
    #[error("{0}")]
    Keyward(#[from] keyward_client::BuildError),
    /// The client of Telegram cannot be set up.
    #[error("{0}")]
    Telegram(String),
    /// Telegram does not know the token.
    #[error("Telegram does not know this bot: check telegram_token and telegram_api_url")]
    Unauthorized,
    /// The system gives no signals.
    #[error("signals cannot be listened to: {0}")]
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
    serve(settings, stop, |ready| say_ready(&ready)).await
}

/// What is said when users are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The name of the bot.
    pub username: String,
    /// Where the side port is.
    pub http: Option<SocketAddr>,
    /// Where the webhook is.
    pub webhook: Option<SocketAddr>,
    format: LogFormat,
}

/// Serves until `stop`, then ends in order. Says once, by `ready`, that Telegram knows the bot.
///
/// # Errors
///
/// Why it cannot start.
pub async fn serve(
    settings: Settings,
    stop: CancellationToken,
    ready: impl FnOnce(Ready),
) -> Result<(), StartError> {
    let desk = Desk::new(Arc::new(handler(&settings)?));
    let health = Arc::new(Health::new(settings.webhook.is_some()));
    // Listeners end last: who asks during a stop hears about it.
    let ended = CancellationToken::new();
    let mut listeners = JoinSet::new();
    let http = match settings.http_listen {
        Some(address) => {
            let (listener, bound) = bind("http_listen", address).await?;
            let (observed, health) = (Arc::clone(&desk), Arc::clone(&health));
            let probes = http::Probes {
                name: "keyward-bot",
                metrics: Box::new(move || {
                    observed.observe();
                    observed.handler().metrics.encode()
                }),
                ready: Box::new(move || health.ready()),
            };
            let stop = ended.clone().cancelled_owned();
            listeners.spawn(http::serve(listener, probes, stop));
            Some(bound)
        }
        None => None,
    };
    let pushed = match &settings.webhook {
        Some(webhook) => Some(bind("webhook_listen", webhook.listen).await?),
        None => None,
    };
    if !introduced(&desk, &health, &stop).await? {
        return Ok(());
    }
    ready(Ready {
        username: desk.handler().board.telegram.username().to_owned(),
        http,
        webhook: pushed.as_ref().map(|(_, bound)| *bound),
        format: settings.log_format,
    });
    let sweeping = Arc::clone(&desk);
    let sweeping_until = stop.clone();
    tokio::spawn(async move { sweeping.sweep(sweeping_until).await });
    match (settings.webhook, pushed) {
        (Some(webhook), Some((listener, _))) => {
            let (path, secret) = (webhook.path.clone(), webhook.secret.clone());
            let (at, until) = (Arc::clone(&desk), stop.clone());
            listeners
                .spawn(async move { webhook::serve(listener, &path, secret, at, until).await });
            push(&desk, &health, &webhook.url, &webhook.secret, &stop).await;
        }
        _ => updates::poll(&desk, &health, &stop).await,
    }
    health.set(Err("stopping".to_owned()));
    end(&desk, !health.is_pushed()).await;
    ended.cancel();
    let ending = async { while listeners.join_next().await.is_some() {} };
    drop(tokio::time::timeout(LISTENERS, ending).await);
    Ok(())
}

/// What handles updates with these settings. Makes no call.
pub(crate) fn handler(settings: &Settings) -> Result<Handler, StartError> {
    let metrics = Arc::new(Metrics::new());
    let client = keyward_client::Client::builder()
        .endpoints(settings.endpoints.clone())
        .token_file(&settings.token_file)
        .insecure(settings.insecure);
    let client = match &settings.ca_file {
        Some(file) => client.ca_file(file),
        None => client,
    };
    let telegram = Telegram::new(
        &settings.telegram_token,
        &settings.telegram_api_url,
        Arc::clone(&metrics),
    );
    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: Duration = Duration::from_secs(60);
    Ok(Handler {
        board: Board {
            telegram: telegram.map_err(StartError::Telegram)?,
            screens: Screens::new(settings.hide_after, settings.support.as_deref()),
            hide_after: settings.hide_after,
            shown: Shown::default(),
            metrics: Arc::clone(&metrics),
        },
        authority: Authority {
            client: client.build()?,
            slot: settings.slot.clone(),
            scopes: settings.scopes.clone(),
            metrics: Arc::clone(&metrics),
        },
        accounts: settings.accounts.clone(),
        limits: Limits {
            reveals: Limit::new(settings.reveals_per_hour, HOUR),
            revokes: Limit::new(settings.revokes_per_hour, HOUR),
            updates: Limit::new(settings.updates_per_minute, MINUTE),
        },
        confirmed: Confirmed::default(),
        metrics,
    })
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

/// Waits until Telegram knows the bot, and tells it the commands. `false`: stopped before that.
async fn introduced(
    desk: &Desk,
    health: &Health,
    stop: &CancellationToken,
) -> Result<bool, StartError> {
    let telegram = &desk.handler().board.telegram;
    let mut failures = 0;
    loop {
        let Some(answer) = stop.run_until_cancelled(telegram.introduce()).await else {
            return Ok(false);
        };
        match answer {
            Ok(()) => break,
            Err(Failure::Unauthorized) => return Err(StartError::Unauthorized),
            Err(failure) => {
                failures += 1;
                health.set(Err(failure.to_string()));
                if failures % 10 == 1 {
                    tracing::warn!(%failure, failures, "Telegram is away; trying again");
                }
                updates::rest(updates::pause(&failure, failures), stop).await;
            }
        }
    }
    // The list only helps users; without it everything works.
    let commands = telegram.set_commands(desk.handler().board.screens.texts());
    if let Some(Err(failure)) = stop.run_until_cancelled(commands).await {
        tracing::warn!(%failure, "the list of commands was not registered");
    }
    if !health.is_pushed() {
        // There may be none, and getUpdates says so if there still is one.
        let deleted = stop.run_until_cancelled(telegram.delete_webhook()).await;
        if let Some(Err(failure)) = deleted {
            tracing::warn!(%failure, "a webhook of before could not be taken away");
        }
        // The first poll may wait for long; that Telegram answers is known by now.
        health.set(Ok(()));
    }
    Ok(true)
}

/// Has updates pushed until `stop`, and looks whether they are: another program may take the webhook
/// away, and Telegram may not reach it.
async fn push(
    desk: &Desk,
    health: &Health,
    url: &str,
    secret: &keyward_client::Secret,
    stop: &CancellationToken,
) {
    let (mut failures, mut registered) = (0, None);
    while let Some(answer) = stop
        .run_until_cancelled(pushed(desk, url, secret, &mut registered))
        .await
    {
        let pause = match answer {
            Ok(known) => {
                failures = 0;
                if let Err(reason) = &known {
                    tracing::warn!(reason, "updates are not delivered");
                }
                health.set(known);
                LOOKING
            }
            Err(failure) => {
                failures += 1;
                tracing::warn!(%failure, "Telegram does not tell of the webhook; trying again");
                health.set(Err(failure.to_string()));
                updates::pause(&failure, failures)
            }
        };
        updates::rest(pause, stop).await;
    }
}

/// Registers the webhook if it is not, or not by this process, whose secret may be another one; and
/// says whether updates fail to be delivered. `registered` is when that had last happened, when this
/// was last asked.
async fn pushed(
    desk: &Desk,
    url: &str,
    secret: &keyward_client::Secret,
    registered: &mut Option<Option<i64>>,
) -> Result<Result<(), String>, Failure> {
    let telegram = &desk.handler().board.telegram;
    let webhook = telegram.webhook(url).await?;
    if registered.is_none() || !webhook.is_ours {
        telegram.set_webhook(url, secret).await?;
    }
    let before = registered.replace(webhook.failed);
    let fails = before.is_some_and(|before| webhook.failed > before);
    Ok(match fails {
        true => Err(format!("Telegram cannot deliver updates: {}", webhook.why)),
        false => Ok(()),
    })
}

/// Ends what is under way, confirms it, and hides what is shown.
async fn end(desk: &Desk, is_polled: bool) {
    if tokio::time::timeout(GRACE, desk.idle()).await.is_err() {
        tracing::warn!("some updates were not handled within {GRACE:?}; they come again");
    }
    if is_polled {
        updates::confirm(desk).await;
    }
    if tokio::time::timeout(HIDING, desk.handler().board.settle_all())
        .await
        .is_err()
    {
        tracing::warn!("some keys could not be hidden within {HIDING:?}");
    }
}

/// One line on stderr, whatever is logged.
fn say_ready(ready: &Ready) {
    use std::io::Write as _;

    let shown = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let (http, webhook) = (shown(ready.http), shown(ready.webhook));
    let line = match ready.format {
        LogFormat::Text => {
            let webhook = webhook.map_or_else(String::new, |at| format!(", webhook on {at}"));
            format!(
                "keyward-bot is ready: @{}, metrics and probes on {}{webhook}",
                ready.username,
                http.unwrap_or_else(|| "none".to_owned())
            )
        }
        LogFormat::Json => serde_json::json!({
            "message": "keyward-bot is ready",
            "username": ready.username,
            "http_listen": http,
            "webhook_listen": webhook,
        })
        .to_string(),
    };
    // Who closed stderr does not want to know.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
