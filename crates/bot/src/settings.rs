//! The settings of the bot. The file `settings/table.rs` holds their table; this one holds what the
//! table reads them into, and the checks that concern several settings or a file.

mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_client::Secret;
use keyward_ops::settings as engine;
use keyward_ops::settings::Telemetry;
use keyward_ops::settings::values::{Url, secret_file};
pub use keyward_ops::settings::{Errors, Inputs};

use crate::account::{Template, is_account_id};
use crate::host::HostSettings;
use crate::i18n::Language;
pub use table::{TABLE, Values};

/// The lengths of a webhook secret: a shorter one could be guessed.
const SECRET: std::ops::RangeInclusive<usize> = 16..=256;

/// The settings in force.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The bots of this process.
    pub bots: Vec<BotSettings>,
    /// The instances of Keyward.
    pub endpoints: Vec<String>,
    /// The file with the token for Keyward; `None`: the certificate says who the bot is.
    pub token_file: Option<PathBuf>,
    /// The files with the bot's certificate and with its key.
    pub client_certificate: Option<PathBuf>,
    /// See `client_certificate`.
    pub client_key: Option<PathBuf>,
    /// The file with the authorities to trust for Keyward; `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `http://` URLs may lead to another host.
    pub insecure: bool,
    /// The address of the side port; `None` switches it off.
    pub http_listen: Option<SocketAddr>,
    /// How long a message shows a key; `None` means that time does not hide it.
    pub hide_after: Option<Duration>,
    /// How often a bot shows a key to one user in an hour.
    pub reveals_per_hour: u32,
    /// How many keys one user can revoke in an hour.
    pub revokes_per_hour: u32,
    /// How many updates of one user a bot answers in a minute.
    pub updates_per_minute: u32,
    /// The log, and what a collector receives.
    pub telemetry: Telemetry,
}

/// The settings of one bot.
#[derive(Clone, Debug, Default)]
pub struct BotSettings {
    /// The bot's token.
    pub telegram_token: Secret,
    /// The Bot API.
    pub telegram_api_url: String,
    /// The account of each user, if there is no host.
    pub template: Template,
    /// The host product, which names the account of each user.
    pub host: Option<HostSettings>,
    /// The slots of each account.
    pub slots: Vec<Slot>,
    /// The grace that users may choose, in hours.
    pub revoke_grace: Option<u16>,
    /// The scopes of new keys.
    pub scopes: Vec<String>,
    /// The contact for users who need help.
    pub support: Option<String>,
    /// Whether to delete a registered webhook at the start.
    pub delete_webhook: bool,
    /// How Telegram pushes updates; `None` means that the bot polls for them.
    pub webhook: Option<WebhookSettings>,
}

impl BotSettings {
    /// The Telegram id of the bot: the part of its token that is not secret.
    pub fn id(&self) -> &str {
        let token = self.telegram_token.expose();
        token.split(':').next().unwrap_or_default()
    }

    /// How each account of this bot begins.
    fn prefix(&self) -> &str {
        let host = self.host.as_ref();
        host.map_or_else(|| self.template.prefix(), |host| &host.prefix)
    }

    /// Whether this bot and the other one could name an account of each other. With equal prefixes they
    /// share their accounts on purpose.
    fn overlaps(&self, other: &Self) -> bool {
        let (own, other) = (self.prefix(), other.prefix());
        own != other && (own.starts_with(other) || other.starts_with(own))
    }
}

/// A slot with a key of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its name in Keyward.
    pub name: String,
    /// What users see: for a language, or for all others.
    titles: Vec<(Option<Language>, String)>,
}

impl Slot {
    /// A slot without a title.
    pub fn named(name: &str) -> Result<Self, String> {
        let of_slot = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let (name, titles) = (name.trim().to_owned(), Vec::new());
        match (1..=64).contains(&name.len()) && name.bytes().all(of_slot) {
            true => Ok(Self { name, titles }),
            false => Err("takes 1 to 64 of A-Z a-z 0-9 . _ -".to_owned()),
        }
    }

    /// Reads `NAME=TITLE`, with any number of `;LANGUAGE:TITLE`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let example = "takes NAME=TITLE such as test=Test network;ru:Тестовая сеть; a title has up to \
                       40 characters, and a language is en, zh or ru";
        let (name, titles) = text.split_once('=').ok_or(example)?;
        let title = |text: &str| {
            let (language, title) = match text.split_once(':') {
                Some((code, title)) => (Some(Language::with_code(code.trim())?), title.trim()),
                None => (None, text.trim()),
            };
            let is_title = (1..=40).contains(&title.chars().count());
            (is_title && !title.contains(char::is_control)).then(|| (language, title.to_owned()))
        };
        let titles = titles.split(';').map(title).collect::<Option<Vec<_>>>();
        let titles = titles.filter(|all| all.iter().any(|(language, _)| language.is_none()));
        let titles = titles.ok_or(example)?;
        Ok(Self {
            titles,
            ..Self::named(name)?
        })
    }

    /// What users of this language see.
    pub fn title(&self, language: Language) -> Option<&str> {
        let of = |wanted| self.titles.iter().find(|(language, _)| *language == wanted);
        let title = of(Some(language)).or_else(|| of(None));
        title.map(|(_, title)| title.as_str())
    }
}

/// How Telegram pushes updates.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// The URL at which Telegram reaches the bot.
    pub url: Url,
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

/// Puts the settings of one bot together, and reads its files.
fn bot(mut values: Values) -> Result<BotSettings, String> {
    telegram_token(&mut values)?;
    values.bot.webhook = webhook(&values)?;
    values.bot.host = host(&values)?;
    Ok(values.bot)
}

/// Takes the bot's token from the variable or from the file, and checks it.
fn telegram_token(values: &mut Values) -> Result<(), String> {
    let is_given = !values.bot.telegram_token.expose().is_empty();
    let name = match (is_given, &values.telegram_token_file) {
        (true, None) => "telegram_token",
        (false, Some(file)) => {
            let name = "telegram_token_file";
            values.bot.telegram_token = secret(name, file)?;
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
    let parts = values.bot.telegram_token.expose().split_once(':');
    let is_valid = parts.is_some_and(|(id, secret)| {
        let is_number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        is_number && !secret.is_empty() && is_url_safe(secret)
    });
    let reason = "takes the token of a bot as BotFather shows it: 123456:ABC...";
    is_valid
        .then_some(())
        .ok_or_else(|| format!("{name}: {reason}"))
}

/// Puts the settings of the webhook together and reads its secret.
fn webhook(values: &Values) -> Result<Option<WebhookSettings>, String> {
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
    let secret = secret("webhook_secret_file", file)?;
    if !SECRET.contains(&secret.expose().len()) || !is_url_safe(secret.expose()) {
        return Err(
            "webhook_secret_file: the file must contain 16 to 256 of A-Z a-z 0-9 _ -".to_owned(),
        );
    }
    Ok(Some(WebhookSettings {
        url: url.clone(),
        listen: values.webhook_listen.unwrap_or(([127, 0, 0, 1], 0).into()),
        secret,
    }))
}

/// Puts the settings of the host product together.
fn host(values: &Values) -> Result<Option<HostSettings>, String> {
    let (url, token_file) = match (&values.account_url, &values.account_token_file) {
        (Some(url), Some(file)) => (url.clone(), file.clone()),
        (None, None) => return Ok(None),
        _ => return Err("account_url and account_token_file need each other".to_owned()),
    };
    let token = secret("account_token_file", &token_file)?;
    if token.expose().is_empty() || !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("account_token_file: the file must contain one token".to_owned());
    }
    let prefix = values.account_prefix.clone();
    Ok(Some(HostSettings {
        url,
        token_file,
        prefix,
    }))
}

fn secret(name: &str, file: &Path) -> Result<Secret, String> {
    let text = secret_file(file);
    let text = text.map_err(|error| format!("{name}: {} cannot be read: {error}", file.display()));
    text.map(|text| Secret::new(text.as_str()))
}

fn is_url_safe(text: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    text.bytes().all(is_safe)
}

#[cfg(test)]
mod tests;
