//! The settings: one name as a flag `--hide-after`, as a variable `KEYWARD_BOT_HIDE_AFTER`, and as
//! a key `hide_after` in `keyward-bot.toml`. All that is wrong is said at once, before anything
//! starts.

mod source;
mod table;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use keyward_client::Secret;

use crate::account::Accounts;
use crate::log::LogFormat;
pub use source::{DEFAULT_FILE, Inputs};
use source::{Given, Source};
pub use table::{Place, Setting, TABLE};

const HIDING: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const TIMES: std::ops::RangeInclusive<u32> = 1..=100_000;
/// A shorter secret could be guessed.
const SECRET: std::ops::RangeInclusive<usize> = 16..=256;

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The bot's token.
    pub telegram_token: Secret,
    /// The Bot API.
    pub telegram_api_url: String,
    /// The instances of Keyward.
    pub endpoints: Vec<String>,
    /// The file with the token for Keyward.
    pub token_file: PathBuf,
    /// The authorities that vouch for Keyward. `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `http://` may lead to another host.
    pub insecure: bool,
    /// Where the side port is.
    pub http_listen: Option<SocketAddr>,
    /// When a shown key is hidden. `None`: not by time.
    pub hide_after: Option<Duration>,
    /// Whose account is whose.
    pub accounts: Accounts,
    /// The slot of each account.
    pub slot: String,
    /// The scopes of new keys.
    pub scopes: Vec<String>,
    /// How often one user is shown a key in an hour.
    pub reveals_per_hour: u32,
    /// How many keys one user may revoke in an hour.
    pub revokes_per_hour: u32,
    /// How many updates of one user are answered in a minute.
    pub updates_per_minute: u32,
    /// Whom users are told to ask.
    pub support: Option<String>,
    /// Updates are pushed. `None`: they are polled.
    pub webhook: Option<WebhookSettings>,
    /// How the log is written.
    pub log_format: LogFormat,
}

/// How updates are pushed.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Where Telegram reaches it.
    pub url: String,
    /// The path of that URL.
    pub path: String,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What Telegram sends with each update.
    pub secret: Secret,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Errors(pub Vec<String>);

/// Gathers the settings from `inputs`.
///
/// # Errors
///
/// Every unknown name, wrong value and file that cannot be read, at once.
pub fn load(inputs: Inputs) -> Result<Settings, Errors> {
    let (given, errors) = source::gather(inputs);
    let mut reader = Reader { given, errors };
    let settings = reader.settings();
    match (settings, reader.errors) {
        (Some(settings), errors) if errors.is_empty() => Ok(settings),
        (_, errors) => Err(Errors(errors)),
    }
}

/// Where the side port of a bot with these settings is. `None`: it has none. What else is given is
/// not looked at, so it can be asked without the secrets.
///
/// # Errors
///
/// Those of `load` that bear upon it.
pub fn side_port(inputs: Inputs) -> Result<Option<SocketAddr>, Errors> {
    let (given, errors) = source::gather(inputs);
    let mut reader = Reader { given, errors };
    let address = reader.optional("http_listen", address);
    match (address, reader.errors) {
        (Some(address), errors) if errors.is_empty() => Ok(address),
        (_, errors) => Err(Errors(errors)),
    }
}

/// Reads values, and gathers what is wrong with them.
struct Reader {
    given: Given,
    errors: Vec<String>,
}

impl Reader {
    /// `None` only if there is an error.
    fn settings(&mut self) -> Option<Settings> {
        let insecure = self.read("insecure", |t| {
            t.parse().map_err(|_| "takes true or false".into())
        });
        let is_open = insecure == Some(true);
        let url = move |text: &str| url(text, is_open);
        let telegram_token = self.telegram_token();
        let telegram_api_url = self.read("telegram_api_url", url);
        let endpoints = self.read("endpoint", move |text| {
            text.split(',')
                .map(|one| url(one.trim()))
                .collect::<Result<Vec<_>, _>>()
        });
        let token_file = self.read("token_file", |text| match text {
            "" => Err("is needed: the file that holds the bot's token for Keyward".into()),
            text => Ok(PathBuf::from(text)),
        });
        let ca_file = self.optional("ca_file", |text| Ok(PathBuf::from(text)));
        let http_listen = self.optional("http_listen", address);
        let hide_after = self.optional("hide_after", hiding);
        let accounts = self.read("account_template", Accounts::parse);
        let slot = self.read("slot", slot);
        let scopes = self.optional("scopes", scopes);
        let reveals_per_hour = self.read("reveals_per_hour", times);
        let revokes_per_hour = self.read("revokes_per_hour", times);
        let updates_per_minute = self.read("updates_per_minute", times);
        let support = self.optional("support", contact);
        let webhook = self.webhook();
        let log_format = self.read("log_format", log_format);
        Some(Settings {
            telegram_token: telegram_token?,
            telegram_api_url: telegram_api_url?,
            endpoints: endpoints?,
            token_file: token_file?,
            ca_file: ca_file?,
            insecure: insecure?,
            http_listen: http_listen?,
            hide_after: hide_after?,
            accounts: accounts?,
            slot: slot?,
            scopes: scopes?.unwrap_or_default(),
            reveals_per_hour: reveals_per_hour?,
            revokes_per_hour: revokes_per_hour?,
            updates_per_minute: updates_per_minute?,
            support: support?,
            webhook: webhook?,
            log_format: log_format?,
        })
    }

    fn text(&self, name: &str) -> (String, Source) {
        let default = || {
            let setting = TABLE.iter().find(|setting| setting.name == name);
            setting.map_or_else(String::new, |setting| setting.default.to_owned())
        };
        let given = self.given.get(name).cloned();
        given.unwrap_or_else(|| (default(), Source::Default))
    }

    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (text, source) = self.text(name);
        match parse(&text) {
            Ok(value) => Some(value),
            Err(reason) => {
                let shown: String = text.chars().take(200).collect();
                let shown = shown.escape_debug();
                self.errors
                    .push(format!("{name} = '{shown}' ({source}): {reason}"));
                None
            }
        }
    }

    /// `none` and `off` stand for no value.
    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        self.read(name, |text| match text {
            "none" | "off" => Ok(None),
            _ => parse(text)
                .map(Some)
                .map_err(|reason| format!("{reason}, or none")),
        })
    }

    fn telegram_token(&mut self) -> Option<Secret> {
        const TAKES: &str = "takes the token of a bot, as BotFather gives it: 123456:ABC...";
        let (token, source) = self.text("telegram_token");
        let (file, _) = self.text("telegram_token_file");
        let (token, from) = match (token.is_empty(), file.is_empty()) {
            (false, true) => (Secret::new(token), source.to_string()),
            (true, false) => (
                self.secret_in("telegram_token_file", &file)?,
                format!("file {file}"),
            ),
            (false, false) => {
                self.errors
                    .push("telegram_token and telegram_token_file are both given".to_owned());
                return None;
            }
            (true, true) => {
                self.errors.push(
                    "telegram_token is missing: set KEYWARD_BOT_TELEGRAM_TOKEN, or name a file with \
                     telegram_token_file"
                        .to_owned(),
                );
                return None;
            }
        };
        // It is never repeated, also when it is none.
        let is_fine = token.expose().split_once(':').is_some_and(|(id, secret)| {
            let of_secret = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            !id.is_empty()
                && id.bytes().all(|byte| byte.is_ascii_digit())
                && !secret.is_empty()
                && secret.bytes().all(of_secret)
        });
        if !is_fine {
            self.errors
                .push(format!("telegram_token ({from}): {TAKES}"));
        }
        is_fine.then_some(token)
    }

    fn secret_in(&mut self, name: &str, file: &str) -> Option<Secret> {
        match std::fs::read_to_string(Path::new(file)) {
            Ok(text) => {
                let text = zeroize::Zeroizing::new(text);
                Some(Secret::new(text.trim_end().to_owned()))
            }
            Err(error) => {
                self.errors
                    .push(format!("{name} = '{}': {error}", file.escape_debug()));
                None
            }
        }
    }

    fn webhook(&mut self) -> Option<Option<WebhookSettings>> {
        let url = self.optional("webhook_url", webhook_url);
        let listen = self.read("webhook_listen", address);
        let file = self.optional("webhook_secret_file", |text| Ok(text.to_owned()))?;
        let Some((url, path)) = url? else {
            return Some(None);
        };
        let Some(file) = file else {
            self.errors.push(
                "webhook_secret_file is needed with webhook_url: without a secret anybody could \
                 send updates"
                    .to_owned(),
            );
            return None;
        };
        let secret = self.secret_in("webhook_secret_file", &file)?;
        let text = secret.expose();
        let is_fine = SECRET.contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !is_fine {
            self.errors.push(format!(
                "webhook_secret_file = '{}': holds 16 to 256 of A-Z a-z 0-9 _ -",
                file.escape_debug()
            ));
            return None;
        }
        Some(Some(WebhookSettings {
            url,
            path,
            listen: listen?,
            secret,
        }))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "takes an IP address and a port, such as 127.0.0.1:9465".into())
}

fn url(text: &str, is_open: bool) -> Result<String, String> {
    const TAKES: &str = "takes a URL such as https://keyward.example:50051";
    let uri: Uri = text.parse().map_err(|_| TAKES)?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or(TAKES)?;
    // Userinfo would be shown in errors, and nobody looks at it.
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(TAKES.into());
    }
    // A port that is none is otherwise taken for that of the scheme, where somebody else may listen.
    let has_port = uri.port_u16().is_some_and(|port| port != 0);
    if !has_port && uri.authority().is_some_and(|part| part.as_str() != host) {
        return Err("its port is none: it takes 1 to 65535".into());
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || bare
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(text.to_owned()),
        Some("http") if is_here || is_open => Ok(text.to_owned()),
        Some("http") => Err(
            "leads to another host without TLS: secrets would cross the network in the clear; \
             write https, or set insecure = true"
                .into(),
        ),
        _ => Err(TAKES.into()),
    }
}

/// The URL and its path.
fn webhook_url(text: &str) -> Result<(String, String), String> {
    let uri: Option<Uri> = text.parse().ok();
    uri.filter(|uri| uri.scheme_str() == Some("https") && uri.query().is_none())
        .filter(|uri| !uri.path().contains(['{', '}', '*', ':']))
        .map(|uri| (text.to_owned(), uri.path().to_owned()))
        .ok_or_else(|| {
            "takes an https URL without a query, such as https://bot.example/telegram".into()
        })
}

fn hiding(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| HIDING.contains(duration))
        .ok_or_else(|| "takes a duration from 1s to 30days".into())
}

fn times(text: &str) -> Result<u32, String> {
    let times = text.parse().ok().filter(|times| TIMES.contains(times));
    times.ok_or_else(|| format!("takes a number from {} to {}", TIMES.start(), TIMES.end()))
}

fn slot(text: &str) -> Result<String, String> {
    let is_fine = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    is_fine
        .then(|| text.to_owned())
        .ok_or_else(|| "takes 1 to 64 of A-Z a-z 0-9 . _ -".into())
}

fn scopes(text: &str) -> Result<Vec<String>, String> {
    let scopes: Vec<_> = text
        .split(',')
        .map(|scope| scope.trim().to_owned())
        .collect();
    let of_scope = |b: u8| b.is_ascii_alphanumeric() || b"._:/*-".contains(&b);
    let is_fine = |s: &String| (1..=64).contains(&s.len()) && s.bytes().all(of_scope);
    (scopes.len() <= 64 && scopes.iter().all(is_fine))
        .then_some(scopes)
        .ok_or_else(|| "takes up to 64 scopes, each 1 to 64 of A-Z a-z 0-9 . _ : / * -".into())
}

fn contact(text: &str) -> Result<String, String> {
    let is_fine = (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control);
    is_fine
        .then(|| text.to_owned())
        .ok_or_else(|| "takes up to 128 characters on one line".into())
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("takes text or json".into()),
    }
}

#[cfg(test)]
mod tests;
