//! The table of settings: names, defaults, help, and how each is read.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use keyward_client::Secret;
use keyward_ops::settings::values::{
    Url, address, duration, log_format, number, optional, path, switch,
};
use keyward_ops::settings::{Entry, Schema, Setting, Takes};

use super::{Settings, telegram_token, webhook};
use crate::account::Accounts;

const HIDE_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const LIMIT: RangeInclusive<u32> = 1..=100_000;
/// The prefix of the variables that every client of Keyward shares.
const OF_CLIENTS: &str = "KEYWARD_";

/// What the table reads: the settings, and the values that `check` turns into settings.
#[derive(Clone, Debug)]
pub struct Values {
    pub(super) settings: Settings,
    pub(super) telegram_token_file: Option<PathBuf>,
    pub(super) webhook_url: Option<Url>,
    pub(super) webhook_listen: SocketAddr,
    pub(super) webhook_secret_file: Option<PathBuf>,
}

type Row = Setting<Values>;

/// All settings. `insecure` is above the URLs that it concerns.
pub const TABLE: &[Setting<Values>] = &[
    Row::new(
        "telegram_token",
        Takes::Value("TOKEN"),
        "",
        "The bot's token from BotFather; set this or telegram_token_file",
        |v, text| {
            // Checked together with the token in the file.
            v.settings.telegram_token = Secret::new(text);
            Ok(())
        },
    )
    .confidential()
    .variable_only(),
    Row::new(
        "telegram_token_file",
        Takes::Value("FILE"),
        "none",
        "File that contains the bot's token",
        |v, text| optional(text, path).map(|path| v.telegram_token_file = path),
    ),
    Row::new(
        "insecure",
        Takes::Switch,
        "false",
        "Allow http:// to other hosts: keys and tokens cross the network in the clear",
        |v, text| switch(text).map(|on| v.settings.insecure = on),
    ),
    Row::new(
        "telegram_api_url",
        Takes::Value("URL"),
        "https://api.telegram.org",
        "The Bot API; http:// only to this host, unless insecure = true",
        |v, text| url(text, v.settings.insecure).map(|url| v.settings.telegram_api_url = url),
    )
    .confidential(),
    Row::new(
        "endpoint",
        Takes::List("URLS"),
        "http://127.0.0.1:50051",
        "Keyward: https://HOST:PORT, several separated by commas; http:// only to this host, unless \
         insecure = true",
        |v, text| {
            let texts = text.trim_end_matches(',').split(',');
            let urls = texts.map(|text| url(text.trim(), v.settings.insecure));
            urls.collect::<Result<_, _>>()
                .map(|urls| v.settings.endpoints = urls)
        },
    )
    .prefixed(OF_CLIENTS)
    .confidential(),
    Row::new(
        "token_file",
        Takes::Value("FILE"),
        "",
        "File that contains the bot's token for Keyward, with the roles `issuer` and `revealer`; \
         read again when it changes",
        |v, text| match text {
            "" => Err("is missing: name the file that contains the bot's token for Keyward".into()),
            _ => path(text).map(|path| v.settings.token_file = path),
        },
    )
    .prefixed(OF_CLIENTS),
    Row::new(
        "ca_file",
        Takes::Value("FILE"),
        "none",
        "Certificates (PEM) of the authorities to trust for Keyward, instead of the system's",
        |v, text| optional(text, path).map(|path| v.settings.ca_file = path),
    )
    .prefixed(OF_CLIENTS),
    Row::new(
        "http_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:9465",
        "Address and port of /metrics, /livez, /readyz and /version; port 0 takes a free port, \
         `none` switches it off",
        |v, text| optional(text, address).map(|address| v.settings.http_listen = address),
    ),
    Row::new(
        "hide_after",
        Takes::Value("DURATION"),
        "10m",
        "Time after which a message shows the key's hint instead of the key: 1s to 30d; `none` \
         never hides a key by time",
        |v, text| {
            let read = |text: &str| duration(text, HIDE_AFTER, "1s to 30d");
            optional(text, read).map(|time| v.settings.hide_after = time)
        },
    ),
    Row::new(
        "account_template",
        Takes::Value("TEMPLATE"),
        Accounts::DEFAULT,
        "The account of a Telegram user: text that contains {user_id} once",
        |v, text| Accounts::parse(text).map(|accounts| v.settings.accounts = accounts),
    ),
    Row::new(
        "slot",
        Takes::Value("NAME"),
        "default",
        "The slot of the account whose key the bot shows: 1 to 64 of A-Z a-z 0-9 . _ -",
        |v, text| slot(text).map(|slot| v.settings.slot = slot),
    ),
    Row::new(
        "scopes",
        Takes::List("SCOPES"),
        "none",
        "Scopes of new keys, separated by commas; existing keys do not change",
        |v, text| {
            optional(text, scopes).map(|scopes| v.settings.scopes = scopes.unwrap_or_default())
        },
    ),
    Row::new(
        "reveals_per_hour",
        Takes::Value("NUMBER"),
        "30",
        "How often the bot shows a key to one user, from 1 to 100000",
        |v, text| number(text, LIMIT).map(|limit| v.settings.reveals_per_hour = limit),
    ),
    Row::new(
        "revokes_per_hour",
        Takes::Value("NUMBER"),
        "10",
        "How many keys one user can revoke, from 1 to 100000",
        |v, text| number(text, LIMIT).map(|limit| v.settings.revokes_per_hour = limit),
    ),
    Row::new(
        "updates_per_minute",
        Takes::Value("NUMBER"),
        "120",
        "How many messages and taps of one user the bot answers, from 1 to 100000; it drops others",
        |v, text| number(text, LIMIT).map(|limit| v.settings.updates_per_minute = limit),
    ),
    Row::new(
        "support",
        Takes::Value("CONTACT"),
        "none",
        "Contact for users when a problem persists, such as @example_support",
        |v, text| optional(text, contact).map(|contact| v.settings.support = contact),
    ),
    Row::new(
        "webhook_url",
        Takes::Value("URL"),
        "none",
        "URL at which Telegram reaches this bot, https://HOST/PATH; Telegram then pushes updates and \
         the bot does not poll",
        |v, text| optional(text, webhook_url).map(|url| v.webhook_url = url),
    )
    .confidential(),
    Row::new(
        "delete_webhook",
        Takes::Switch,
        "false",
        "Delete a webhook that is registered for the bot at the start: Telegram refuses polls while \
         there is one",
        |v, text| switch(text).map(|on| v.settings.delete_webhook = on),
    ),
    Row::new(
        "webhook_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:8443",
        "Address and port of the webhook, behind a proxy that ends TLS; port 0 takes a free port",
        |v, text| address(text).map(|address| v.webhook_listen = address),
    ),
    Row::new(
        "webhook_secret_file",
        Takes::Value("FILE"),
        "none",
        "File with the secret that Telegram sends with each update: 16 to 256 of A-Z a-z 0-9 _ -",
        |v, text| optional(text, path).map(|path| v.webhook_secret_file = path),
    ),
    Row::new(
        "log_format",
        Takes::Value("FORMAT"),
        "text",
        "Format of the log on stderr: `text` or `json`; RUST_LOG filters the log",
        |v, text| log_format(text).map(|format| v.settings.log_format = format),
    ),
];

impl Schema for Values {
    const PREFIX: &'static str = "KEYWARD_BOT_";
    const FILE: &'static str = "keyward-bot.toml";
    const FOREIGN: &'static [&'static str] = &[];
    const TABLE: &'static [Setting<Self>] = TABLE;

    fn blank() -> Self {
        Self {
            settings: Settings::default(),
            telegram_token_file: None,
            webhook_url: None,
            webhook_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            webhook_secret_file: None,
        }
    }

    fn check(&mut self, entries: &[Entry], errors: &mut Vec<String>) {
        errors.extend(telegram_token(self, entries).err());
        match webhook(self, entries) {
            Ok(webhook) => self.settings.webhook = webhook,
            Err(error) => errors.push(error),
        }
    }
}

/// A URL of a server that gets secrets. The URL itself contains none: it is shown in errors.
fn url(text: &str, is_insecure: bool) -> Result<String, String> {
    let url = Url::new(text)?;
    if url.has_user() {
        return Err("takes a URL without a user".to_owned());
    }
    match url.is_https() || url.is_local() || is_insecure {
        true => Ok(text.to_owned()),
        false => Err(
            "leads to another host without TLS: secrets would cross the network in the clear; \
             write https, or set insecure = true"
                .to_owned(),
        ),
    }
}

fn webhook_url(text: &str) -> Result<Url, String> {
    let url = Url::new(text).ok().filter(|url| {
        url.is_https()
            && url.uri().query().is_none()
            && !url.uri().path().contains(['{', '}', '*', ':'])
    });
    url.ok_or_else(|| {
        "takes an https URL without a query, such as https://bot.example/telegram".to_owned()
    })
}

fn slot(text: &str) -> Result<String, String> {
    let of_slot = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(of_slot) {
        true => Ok(text.to_owned()),
        false => Err("takes 1 to 64 of A-Z a-z 0-9 . _ -".to_owned()),
    }
}

fn scopes(text: &str) -> Result<Vec<String>, String> {
    let scopes: Vec<_> = text
        .split(',')
        .map(|scope| scope.trim().to_owned())
        .collect();
    let of_scope = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/*-".contains(&byte);
    let is_scope = |s: &String| (1..=64).contains(&s.len()) && s.bytes().all(of_scope);
    match scopes.len() <= 64 && scopes.iter().all(is_scope) {
        true => Ok(scopes),
        false => Err("takes up to 64 scopes, each 1 to 64 of A-Z a-z 0-9 . _ : / * -".to_owned()),
    }
}

fn contact(text: &str) -> Result<String, String> {
    match (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("takes up to 128 characters on one line".to_owned()),
    }
}
