//! The settings of the bot. The file `settings/table.rs` holds their table; this one holds what the
//! table reads them into, and the checks that concern several settings or a file.

mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keyward_client::Secret;
use keyward_ops::LogFormat;
use keyward_ops::settings::values::secret_file;
use keyward_ops::settings::{self as engine, Entry};
pub use keyward_ops::settings::{Errors, Inputs};

use crate::account::Accounts;
pub use table::{TABLE, Values};

/// The lengths of a webhook secret: a shorter one could be guessed.
const SECRET: std::ops::RangeInclusive<usize> = 16..=256;

/// The settings in force.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The bot's token.
    pub telegram_token: Secret,
    /// The Bot API.
    pub telegram_api_url: String,
    /// The instances of Keyward.
    pub endpoints: Vec<String>,
    /// The file with the token for Keyward.
    pub token_file: PathBuf,
    /// The file with the authorities to trust for Keyward; `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `http://` URLs may lead to another host.
    pub insecure: bool,
    /// The address of the side port; `None` switches it off.
    pub http_listen: Option<SocketAddr>,
    /// How long a message shows a key; `None` means that time does not hide it.
    pub hide_after: Option<Duration>,
    /// The account of each user.
    pub accounts: Accounts,
    /// The slot of each account.
    pub slot: String,
    /// The scopes of new keys.
    pub scopes: Vec<String>,
    /// How often the bot shows a key to one user in an hour.
    pub reveals_per_hour: u32,
    /// How many keys one user can revoke in an hour.
    pub revokes_per_hour: u32,
    /// How many updates of one user the bot answers in a minute.
    pub updates_per_minute: u32,
    /// The contact for users who need help.
    pub support: Option<String>,
    /// Whether to delete a registered webhook at the start.
    pub delete_webhook: bool,
    /// How Telegram pushes updates; `None` means that the bot polls for them.
    pub webhook: Option<WebhookSettings>,
    /// The format of the log.
    pub log_format: LogFormat,
}

/// How Telegram pushes updates.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The URL at which Telegram reaches the bot.
    pub url: String,
    /// The path of that URL.
    pub path: String,
    /// The address on which the bot listens.
    pub listen: SocketAddr,
    /// The secret that Telegram sends with each update.
    pub secret: Secret,
}

/// Loads the settings from `inputs`.
///
/// # Errors
///
/// Every unknown name, wrong value and unreadable file, at once.
pub fn load(inputs: Inputs) -> Result<Settings, Errors> {
    engine::load::<Values>(inputs).map(|effective| effective.settings.settings)
}

/// The address of the side port of a bot with these settings; `None` if it has none. Ignores all
/// other settings, so it needs no secrets.
///
/// # Errors
///
/// Those of `load` that concern the side port.
pub fn side_port(inputs: Inputs) -> Result<Option<SocketAddr>, Errors> {
    let loaded = engine::load_only::<Values>(inputs, &["http_listen"])?;
    Ok(loaded.settings.settings.http_listen)
}

/// Takes the bot's token from the variable or from the file, and checks it.
fn telegram_token(values: &mut Values, entries: &[Entry]) -> Result<(), String> {
    let is_given = !values.settings.telegram_token.expose().is_empty();
    let name = match (is_given, &values.telegram_token_file) {
        (true, None) => "telegram_token",
        (false, Some(file)) => {
            let name = "telegram_token_file";
            let text = secret_file(file).map_err(|error| unreadable(name, entries, &error))?;
            values.settings.telegram_token = Secret::new(text.as_str());
            name
        }
        (true, Some(_)) => {
            return Err(
                "telegram_token and telegram_token_file are both set; set only one".to_owned(),
            );
        }
        (false, None) => {
            return Err(
                "telegram_token is missing: set KEYWARD_BOT_TELEGRAM_TOKEN, or name a file with \
                 telegram_token_file"
                    .to_owned(),
            );
        }
    };
    let parts = values.settings.telegram_token.expose().split_once(':');
    let is_valid = parts.is_some_and(|(id, secret)| {
        let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_number && !secret.is_empty() && is_url_safe(secret)
    });
    let reason = "takes the token of a bot as BotFather shows it: 123456:ABC...";
    is_valid
        .then_some(())
        .ok_or_else(|| refused(name, entries, reason))
}

/// Puts the settings of the webhook together and reads its secret.
fn webhook(values: &Values, entries: &[Entry]) -> Result<Option<WebhookSettings>, String> {
    let Some(url) = &values.webhook_url else {
        return Ok(None);
    };
    let Some(file) = &values.webhook_secret_file else {
        return Err(
            "webhook_secret_file is needed with webhook_url: without a secret anyone could send \
             updates"
                .to_owned(),
        );
    };
    let secret =
        secret_file(file).map_err(|error| unreadable("webhook_secret_file", entries, &error))?;
    if !SECRET.contains(&secret.len()) || !is_url_safe(&secret) {
        let reason = "the file must contain 16 to 256 of A-Z a-z 0-9 _ -";
        return Err(refused("webhook_secret_file", entries, reason));
    }
    Ok(Some(WebhookSettings {
        url: url.expose().to_owned(),
        path: url.uri().path().to_owned(),
        listen: values.webhook_listen,
        secret: Secret::new(secret.as_str()),
    }))
}

fn is_url_safe(text: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    text.bytes().all(is_safe)
}

fn unreadable(name: &str, entries: &[Entry], error: &std::io::Error) -> String {
    refused(name, entries, &format!("cannot be read: {error}"))
}

fn refused(name: &str, entries: &[Entry], reason: &str) -> String {
    let entry = Entry::find(entries, name);
    entry.map_or_else(
        || format!("{name}: {reason}"),
        |entry| entry.refused(reason),
    )
}

#[cfg(test)]
mod tests;
