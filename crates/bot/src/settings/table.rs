//! The table of settings: names, defaults, help, and how each is read.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use keyward_client::Secret;
use keyward_ops::settings::values::{Url, address, duration, number, optional, path, switch};
use keyward_ops::settings::{
    Entry, HasTelemetry, Schema, Setting, Takes, Telemetry, key_of, tables,
};

use super::{BotSettings, Settings, Slot, bot, is_account_id};
use crate::account::Template;

const HIDE_AFTER: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const LIMIT: RangeInclusive<u32> = 1..=100_000;

/// What the table reads: the settings, and the values that `check` turns into settings.
#[derive(Clone, Debug, Default)]
pub struct Values {
    pub(super) settings: Settings,
    pub(super) bot: BotSettings,
    /// Other bots than this one, each with the settings that it shares.
    pub(super) bots: Vec<Self>,
    pub(super) account_url: Option<Url>,
    pub(super) account_token_file: Option<PathBuf>,
    pub(super) account_prefix: String,
    pub(super) telegram_token_file: Option<PathBuf>,
    pub(super) webhook_url: Option<Url>,
    pub(super) webhook_listen: Option<SocketAddr>,
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
            v.bot.telegram_token = Secret::new(text);
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
    Row::insecure_client(|v, text| switch(text).map(|on| v.settings.insecure = on)),
    Row::new(
        "telegram_api_url",
        Takes::Value("URL"),
        "https://api.telegram.org",
        "The Bot API; http:// only to this host, unless insecure = true",
        |v, text| url(text, v.settings.insecure).map(|url| v.bot.telegram_api_url = url.expose().to_owned()),
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
            let urls = urls.map(|url| Ok(url?.expose().to_owned()));
            urls.collect::<Result<_, String>>()
                .map(|urls| v.settings.endpoints = urls)
        },
    )
    .of_clients()
    .confidential(),
    Row::client_certificate(|v, text| {
        optional(text, path).map(|path| v.settings.client_certificate = path)
    }),
    Row::client_key(|v, text| {
        let key = key_of(v.settings.client_certificate.as_ref(), text);
        key.map(|key| v.settings.client_key = key)
    }),
    Row::new(
        "token_file",
        Takes::Value("FILE"),
        "",
        "File that contains the bot's token for Keyward, with the roles `issuer` and `revealer`; \
         read again when it changes; not needed with `client_certificate`",
        |v, text| match text {
            "" if v.settings.client_certificate.is_some() => Ok(()),
            "" => Err("is missing: name the file that contains the bot's token for Keyward".into()),
            _ => path(text).map(|path| v.settings.token_file = Some(path)),
        },
    )
    .of_clients(),
    Row::ca_file(|v, text| optional(text, path).map(|path| v.settings.ca_file = path)),
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
        Template::DEFAULT,
        "The account of a Telegram user: text that contains {user_id} once",
        |v, text| Template::parse(text).map(|template| v.bot.template = template),
    ),
    Row::new(
        "account_url",
        Takes::Value("URL"),
        "none",
        "Where the host product answers which account a Telegram user has, in place of \
         account_template; http:// only to this host",
        |v, text| optional(text, |text| url(text, false)).map(|url| v.account_url = url),
    )
    .confidential(),
    Row::new(
        "account_token_file",
        Takes::Value("FILE"),
        "none",
        "File with the bearer token for account_url; read for each question",
        |v, text| optional(text, path).map(|path| v.account_token_file = path),
    ),
    Row::new(
        "account_prefix",
        Takes::Value("TEXT"),
        "none",
        "What each account_id of account_url gets in front, so that hosts do not share accounts",
        |v, text| {
            v.account_prefix = optional(text, |text| Ok(text.to_owned()))?.unwrap_or_default();
            let is_valid = v.account_prefix.is_empty() || is_account_id(&v.account_prefix);
            is_valid.then_some(()).ok_or_else(|| "takes printable ASCII".to_owned())
        },
    ),
    Row::new(
        "slot",
        Takes::Value("NAME"),
        "default",
        "The slot of the account whose key the bot shows: 1 to 64 of A-Z a-z 0-9 . _ -",
        |v, text| Slot::named(text).map(|slot| v.bot.slots = vec![slot]),
    ),
    Row::new(
        "slots",
        Takes::List("SLOTS"),
        "none",
        "In place of `slot`: up to 8 slots, each NAME=TITLE or NAME=TITLE;LANGUAGE:TITLE with en, zh \
         or ru, separated by commas",
        |v, text| {
            let slots = optional(text, slots)?;
            slots.into_iter().for_each(|slots| v.bot.slots = slots);
            Ok(())
        },
    ),
    Row::new(
        "revoke_grace",
        Takes::Value("DURATION"),
        "none",
        "Lets users keep a revoked key for this time, in whole hours from 1h to 30d",
        |v, text| optional(text, hours).map(|hours| v.bot.revoke_grace = hours),
    ),
    Row::new(
        "scopes",
        Takes::List("SCOPES"),
        "none",
        "Scopes of new keys, separated by commas; existing keys do not change",
        |v, text| {
            optional(text, scopes).map(|scopes| v.bot.scopes = scopes.unwrap_or_default())
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
        |v, text| optional(text, contact).map(|contact| v.bot.support = contact),
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
        |v, text| switch(text).map(|on| v.bot.delete_webhook = on),
    ),
    Row::new(
        "webhook_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:8443",
        "Address and port of the webhook, behind a proxy that ends TLS; port 0 takes a free port",
        |v, text| address(text).map(|address| v.webhook_listen = Some(address)),
    ),
    Row::new(
        "webhook_secret_file",
        Takes::Value("FILE"),
        "none",
        "File with the secret that Telegram sends with each update: 16 to 256 of A-Z a-z 0-9 _ -",
        |v, text| optional(text, path).map(|path| v.webhook_secret_file = path),
    ),
    Row::log_format(),
    Row::otlp_endpoint(),
    Row::otlp_signals(),
    Row::trace_ratio(
        "Part of the updates whose spans are sent to the collector: 0 to 1; their calls to Keyward are traced, too",
    ),
    // The last one: each bot starts with the settings above.
    Row::new(
        "bots",
        Takes::Tables,
        "none",
        "Several bots: tables with the settings of each, and its token in telegram_token_file; the \
         settings outside the tables are for all",
        |v, text| {
            let bots = optional(text, |text| tables(text, v, is_of_a_bot))?;
            v.bots = bots.unwrap_or_default();
            Ok(())
        },
    )
    .confidential(),
];

/// The settings that a bot can have for itself.
const OF_A_BOT: &str = "telegram_token_file telegram_api_url account_template account_url \
    account_token_file account_prefix slot slots revoke_grace scopes support webhook_url \
    delete_webhook webhook_listen webhook_secret_file";

fn is_of_a_bot(name: &str) -> bool {
    OF_A_BOT.split_whitespace().any(|known| known == name)
}

impl HasTelemetry for Values {
    fn telemetry(&self) -> &Telemetry {
        &self.settings.telemetry
    }

    fn telemetry_mut(&mut self) -> &mut Telemetry {
        &mut self.settings.telemetry
    }
}

impl Schema for Values {
    const PREFIX: &'static str = "KEYWARD_BOT_";
    const FILE: &'static str = "keyward-bot.toml";
    const TABLE: &'static [Setting<Self>] = TABLE;

    fn check(&mut self, _: &[Entry], errors: &mut Vec<String>) {
        let tables = (1..).zip(std::mem::take(&mut self.bots));
        let tables = tables.map(|(number, values)| (format!("bots, table {number}: "), values));
        let mut bots: Vec<_> = tables.collect();
        if bots.is_empty() {
            bots.push((String::new(), self.clone()));
        }
        let known = &mut self.settings.bots;
        for (place, values) in bots {
            match bot(values) {
                Ok(bot) if known.iter().any(|known| known.id() == bot.id()) => {
                    errors.push(format!("{place}bot {} is in another table", bot.id()));
                }
                Ok(bot) if known.iter().any(|known| bot.overlaps(known)) => {
                    errors.push(format!(
                        "{place}account_prefix or account_template: give each bot a prefix that begins no \
                         other one, and begins with no other one"
                    ));
                }
                Ok(bot) => known.push(bot),
                Err(error) => errors.push(format!("{place}{error}")),
            }
        }
    }
}

/// A URL of a server that gets secrets. The URL itself contains none: it is shown in errors.
fn url(text: &str, is_insecure: bool) -> Result<Url, String> {
    let url = Url::new(text)?;
    if url.has_user() {
        return Err("takes a URL without a user".to_owned());
    }
    match url.is_https() || url.is_local() || is_insecure {
        true => Ok(url),
        false => Err(
            "leads to another host without TLS: secrets would cross the network in the clear; \
             write https"
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

fn slots(text: &str) -> Result<Vec<Slot>, String> {
    let slots = text
        .split(',')
        .map(Slot::parse)
        .collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<_> = slots.iter().map(|slot| &slot.name).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() == slots.len() && slots.len() <= 8 {
        true => Ok(slots),
        false => Err("takes up to 8 slots with different names".to_owned()),
    }
}

fn hours(text: &str) -> Result<u16, String> {
    const HOUR: u64 = 3600;
    let limits = Duration::from_secs(HOUR)..=Duration::from_secs(30 * 24 * HOUR);
    let time = duration(text, limits, "1h to 30d")?.as_secs();
    let hours = u16::try_from(time / HOUR)
        .ok()
        .filter(|_| time.is_multiple_of(HOUR));
    hours.ok_or_else(|| "takes whole hours".to_owned())
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
