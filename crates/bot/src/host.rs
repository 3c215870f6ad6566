//! Asks the host product which account a Telegram user has there. The contract is in
//! `docs/guide/bot.md`.
//!
//! Nothing is cached, so a tap always acts on the account of that moment. The log names the field
//! that is wrong, but repeats neither the question nor the answer: both are personal data.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use keyward_ops::outgoing::{self, Proxies, cause};
use keyward_ops::settings::values::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::account::{Account, Line, Link, NoAccount, is_account_id};
use crate::events::Person;
use crate::metrics::{Metrics, count};

/// Timeout of a question, together with its repetition.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest answer, in bytes.
const MAX_BODY: usize = 64 << 10;
/// All lines fit into one message of Telegram.
const MAX_LINES: usize = 10;
const MAX_LABEL: usize = 64;
const MAX_VALUE: usize = 256;
const MAX_LINKS: usize = 5;
/// In bytes.
const MAX_URL: usize = 512;
const AWAY: &str = "away";

/// Where the host product answers, and how its accounts are named in Keyward.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// The URL of the question.
    pub url: Url,
    /// The file with the bearer token. It is read for each question.
    pub token_file: PathBuf,
    /// What each account id gets in front.
    pub prefix: String,
}

/// The host product.
pub struct Host {
    client: reqwest::Client,
    settings: HostSettings,
    metrics: Arc<Metrics>,
}

/// What the host answers for a user.
#[derive(Deserialize)]
struct Registered {
    telegram_user_id: u64,
    account_id: String,
    #[serde(default)]
    lines: Vec<Line>,
    #[serde(default)]
    links: Vec<Link>,
}

/// What the host answers with status 404.
#[derive(Deserialize)]
struct NotRegistered {
    links: Vec<Link>,
}

/// Why an account stays unknown: its name in metrics, and the reason.
type Failure = (&'static str, String);

/// The host does not answer, or fails.
fn away(reason: impl Into<String>) -> Failure {
    (AWAY, reason.into())
}

/// The host breaks the contract, or the bot's settings are wrong.
fn wrong(reason: impl Into<String>) -> Failure {
    ("wrong", reason.into())
}

impl Host {
    /// A client of the host product. Makes no call.
    ///
    /// # Errors
    ///
    /// TLS that cannot be set up.
    pub fn new(settings: HostSettings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let client = outgoing::client(Proxies::to(&settings.url))
            .map_err(|error| format!("the client for account_url: {error}"))?;
        Ok(Self {
            client,
            settings,
            metrics,
        })
    }

    /// The account of a person.
    ///
    /// # Errors
    ///
    /// The person has none, or the host does not say.
    pub async fn account(&self, person: Person) -> Result<Account, NoAccount> {
        let late = |_| Err(away(format!("no answer within {TIMEOUT:?}")));
        let answer = tokio::time::timeout(TIMEOUT, self.ask(person)).await;
        let (outcome, account) = match answer.unwrap_or_else(late) {
            Ok(Ok(account)) => ("ok", Ok(account)),
            Ok(Err(links)) => ("not_registered", Err(NoAccount::NotRegistered(links))),
            Err((outcome, reason)) => {
                tracing::warn!(outcome, reason, "account_url names no account");
                (outcome, Err(NoAccount::Unknown))
            }
        };
        count(&self.metrics.host, "outcome", outcome);
        account
    }

    /// The account, or the links for a user who has none.
    async fn ask(&self, person: Person) -> Result<Result<Account, Vec<Link>>, Failure> {
        let token = tokio::fs::read_to_string(&self.settings.token_file).await;
        let token = token.map_err(|error| wrong(format!("account_token_file: {error}")))?;
        let get = || self.get(person, token.trim());
        let (status, body) = match get().await {
            Err((AWAY, _)) => get().await?,
            answer => answer?,
        };
        match status {
            StatusCode::OK => self.registered(person, &body).map(Ok),
            StatusCode::NOT_FOUND => {
                let NotRegistered { links } = read(&body)?;
                links_of(links).map(Err)
            }
            StatusCode::TOO_MANY_REQUESTS => Err(away(format!("status {status}"))),
            _ => Err(wrong(format!("status {status}"))),
        }
    }

    async fn get(&self, person: Person, token: &str) -> Result<(StatusCode, Vec<u8>), Failure> {
        let user_id = person.id.to_string();
        let query = [
            ("telegram_user_id", user_id.as_str()),
            ("language", person.language.code()),
        ];
        let failed = |error: reqwest::Error| match error.is_builder() {
            true => wrong("account_token_file holds no token"),
            false => away(cause(&error)),
        };
        let request = self.client.get(self.settings.url.expose()).query(&query);
        let mut response = request.bearer_auth(token).send().await.map_err(failed)?;
        let status = response.status();
        if status.is_server_error() {
            return Err(away(format!("status {status}")));
        }
        let body = outgoing::body(&mut response, MAX_BODY).await;
        match body.map_err(failed)? {
            Some(body) => Ok((status, body)),
            None => Err(wrong("the answer is longer than 64 KiB")),
        }
    }

    fn registered(&self, person: Person, body: &[u8]) -> Result<Account, Failure> {
        let answer: Registered = read(body)?;
        let id = format!("{}{}", self.settings.prefix, answer.account_id);
        let is_line =
            |line: &Line| is_text(&line.label, MAX_LABEL) && is_text(&line.value, MAX_VALUE);
        if answer.telegram_user_id != person.id {
            return Err(wrong("telegram_user_id is not the one in the question"));
        }
        if !is_account_id(&answer.account_id) || !is_account_id(&id) {
            return Err(wrong("account_id is no account id"));
        }
        if answer.lines.len() > MAX_LINES || !answer.lines.iter().all(is_line) {
            return Err(wrong("lines are too many, too long, empty or unprintable"));
        }
        Ok(Account {
            id,
            lines: answer.lines,
            links: links_of(answer.links)?,
        })
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // The error's own text repeats the value.
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        wrong(format!("line {line}, column {column} breaks the contract"))
    })
}

fn links_of(links: Vec<Link>) -> Result<Vec<Link>, Failure> {
    let is_link = |link: &Link| {
        // Telegram refuses other hosts, and with them the whole message.
        let is_domain =
            |host: &str| host.contains('.') && host.split('.').all(|part| !part.is_empty());
        let is_page =
            |url: Url| url.is_https() && !url.has_user() && url.uri().host().is_some_and(is_domain);
        is_text(&link.text, MAX_LABEL)
            && link.url.len() <= MAX_URL
            && link.url.bytes().all(|byte| byte.is_ascii_graphic())
            && Url::new(&link.url).is_ok_and(is_page)
    };
    match links.len() <= MAX_LINKS && links.iter().all(is_link) {
        true => Ok(links),
        false => Err(wrong(
            "links are too many, too long, empty, unprintable or not https",
        )),
    }
}

/// Text on one line that looks as it reads: no control characters, and no marks that turn its
/// direction.
fn is_text(text: &str, max: usize) -> bool {
    // U+200D joins emoji.
    let hidden = ['\u{61c}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{feff}'];
    let is_hidden =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    let is_short = text.chars().count() <= max;
    is_short && !text.trim().is_empty() && !text.contains(hidden) && !text.contains(is_hidden)
}
