//! The webhook: posts updates to the bot one by one, and repeats each until the bot answers 200.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Shared;
use super::calls::Refusal;
use super::parameters::Parameters as _;
use super::world::World;
use crate::http;

/// The time limit for the bot's response.
const ANSWER: Duration = Duration::from_secs(30);
/// The pause after a response other than 200. Telegram waits longer.
const PAUSE: Duration = Duration::from_millis(200);
/// The header that proves that an update comes from Telegram.
const SECRET: &str = "x-telegram-bot-api-secret-token";

/// The target of the updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Webhook {
    pub(super) url: String,
    secret: String,
    error: Option<String>,
}

/// `setWebhook`.
pub(super) fn set(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    let url = arguments.text("url").unwrap_or_default();
    if url.is_empty() {
        return delete(world, arguments);
    }
    if !url.starts_with("https://") {
        return Err(Refusal::bad(
            "bad webhook: An HTTPS URL must be provided for webhook",
        ));
    }
    let secret = arguments.text("secret_token").unwrap_or_default();
    let signs = |sign: char| sign.is_ascii_alphanumeric() || "_-".contains(sign);
    if secret.len() > 256 || !secret.chars().all(signs) {
        return Err(Refusal::bad("secret token contains unallowed characters"));
    }
    if let Some(kinds) = arguments.value("allowed_updates") {
        world.updates.allow(&kinds);
    }
    drop_pending(world, arguments);
    world.webhook = Some(Webhook {
        url,
        secret,
        error: None,
    });
    Ok(json!(true))
}

/// `deleteWebhook`.
pub(super) fn delete(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    drop_pending(world, arguments);
    world.webhook = None;
    Ok(json!(true))
}

fn drop_pending(world: &mut World, arguments: &Map<String, Value>) {
    if arguments.is_set("drop_pending_updates") {
        world.updates.pending.clear();
    }
}

/// `getWebhookInfo`.
pub(super) fn info(world: &World) -> Value {
    let webhook = world.webhook.as_ref();
    let mut info = json!({
        "url": webhook.map_or("", |webhook| &webhook.url),
        "has_custom_certificate": false,
        "pending_update_count": world.updates.pending.len(),
    });
    if let Some(error) = webhook.and_then(|webhook| webhook.error.as_ref()) {
        info["last_error_message"] = json!(error);
    }
    info
}

/// The address and the path of a URL. The fake also plays the proxy that terminates TLS.
fn target(world: &World, url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("https://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    Some((*world.hosts.get(host)?, format!("/{path}")))
}

/// Posts updates while a webhook is set.
pub(super) async fn deliver(shared: Arc<Shared>) {
    let mut changes = shared.changed.subscribe();
    loop {
        let next = shared.change(|world| {
            let webhook = world.webhook.clone()?;
            world.updates.confirm(0);
            Some((webhook, world.updates.pending.front()?.clone()))
        });
        let Some((webhook, (id, update))) = next else {
            if changes
                .wait_for(|_| {
                    shared.read(|world| world.webhook.is_some() && !world.all_confirmed())
                })
                .await
                .is_err()
            {
                return;
            }
            continue;
        };
        let error = match tokio::time::timeout(ANSWER, post(&shared, &webhook, &update)).await {
            Ok(Ok(200)) => {
                shared.change(|world| world.updates.posted(id));
                continue;
            }
            Ok(Ok(status)) => format!("Wrong response from the webhook: {status}"),
            Ok(Err(error)) => format!("Connection failed: {error}"),
            Err(_) => "Read timeout expired".to_owned(),
        };
        shared.change(|world| {
            if let Some(webhook) = &mut world.webhook {
                webhook.error = Some(error);
            }
        });
        tokio::time::sleep(PAUSE).await;
    }
}

async fn post(shared: &Shared, webhook: &Webhook, update: &Value) -> std::io::Result<u16> {
    let unknown = || std::io::Error::other("failed to resolve host");
    let (address, path) = shared
        .read(|world| target(world, &webhook.url))
        .ok_or_else(unknown)?;
    let mut headers = vec![("content-type", "application/json")];
    if !webhook.secret.is_empty() {
        headers.push((SECRET, &webhook.secret));
    }
    let answer = http::ask(address, "POST", &path, &headers, &update.to_string()).await?;
    Ok(answer.status)
}

impl super::world::Updates {
    /// The bot accepted the first update.
    fn posted(&mut self, id: i64) {
        if self.pending.front().is_some_and(|(first, _)| *first == id) {
            self.pending.pop_front();
        }
    }
}
