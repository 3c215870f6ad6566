//! Calls to Telegram: repeats them while Telegram fails, honours its `retry_after`, and maps every
//! failure to a `Failure` that a caller can act on.
//!
//! A URL of the Bot API contains the token, and an answer may contain a key. Neither leaves this
//! module; `failure` defines the text that a failure may contain.

pub mod failure;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyward_client::Secret;
use keyward_ops::outgoing::{self, Proxies, cause, words};
use keyward_ops::settings::values::Url;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::callback::Codec;
use crate::events::{Command, Update};
use crate::i18n::{Id, Language, Texts};
use crate::metrics::Metrics;
use crate::screens::{Button, ButtonAction, Screen};
use crate::user_queues;
use failure::Failure;

/// How long Telegram holds a poll that has no updates.
pub const POLL: Duration = Duration::from_secs(25);
/// Timeout of a call; a poll adds `POLL`.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes. A hundred updates are far shorter.
const MAX_BODY: usize = 32 << 20;
/// A call whose `retry_after` is longer fails.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Timeout of the answer to a tap.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Updates that Telegram pushes concurrently; this is its maximum.
pub const MAX_CONNECTIONS: u8 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// One attempt.
pub const ONCE: u32 = 1;
/// A few attempts within a second or two.
pub const SHORTLY: u32 = 3;
/// Attempts for about an hour.
const PATIENTLY: u32 = 480;

/// The kinds of updates that Telegram sends.
const UPDATE_KINDS: [&str; 2] = ["message", "callback_query"];

/// The id of a message in its chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct MessageId(pub i64);

/// A webhook as Telegram knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Webhook {
    /// Empty if no webhook is set.
    url: String,
    /// When Telegram last failed to deliver an update, in seconds since 1970.
    #[serde(rename = "last_error_date")]
    pub last_error: Option<i64>,
    #[serde(default, rename = "last_error_message")]
    why: String,
    /// How many updates wait for their delivery.
    #[serde(default, rename = "pending_update_count")]
    pub pending: u64,
}

impl Webhook {
    /// Whether it has this URL.
    pub fn is_at(&self, url: &str) -> bool {
        let parsed = |url: &str| reqwest::Url::parse(url).ok();
        parsed(&self.url).is_some_and(|ours| parsed(url) == Some(ours))
    }

    /// Why the last delivery failed.
    pub fn why(&self) -> String {
        words(&self.why)
    }
}

/// The Bot API.
pub struct Telegram {
    client: reqwest::Client,
    /// The URL of all methods, which contains the token.
    url: Secret,
    codec: Codec,
    metrics: Arc<Metrics>,
    username: OnceLock<String>,
}

impl Telegram {
    /// The bot of `token` at `api_url`. Makes no call.
    ///
    /// # Errors
    ///
    /// An invalid URL; TLS that cannot be set up.
    pub fn new(token: &Secret, api_url: &str, metrics: Arc<Metrics>) -> Result<Self, String> {
        let proxies = Url::new(api_url).map(|url| Proxies::to(&url));
        let proxies = proxies.map_err(|error| format!("telegram_api_url: {error}"))?;
        // A redirect would send the token and the keys to another server.
        let client = outgoing::builder(proxies).connect_timeout(CONNECT_TIMEOUT);
        let client = client
            .build()
            .map_err(|error| format!("the client for Telegram: {}", cause(&error)))?;
        let url = format!("{}/bot{}", api_url.trim_end_matches('/'), token.expose());
        reqwest::Url::parse(&url).map_err(|error| format!("telegram_api_url: {error}"))?;
        Ok(Self {
            client,
            url: Secret::new(url),
            codec: Codec::new(token),
            metrics,
            username: OnceLock::new(),
        })
    }

    /// Reads and writes the data of buttons.
    pub const fn codec(&self) -> &Codec {
        &self.codec
    }

    /// The name of the bot, without `@`; empty before `introduce`.
    pub fn username(&self) -> &str {
        self.username.get().map_or("", String::as_str)
    }

    /// Asks Telegram who the bot is.
    ///
    /// # Errors
    ///
    /// `Unauthorized` for a token that Telegram does not know.
    pub async fn introduce(&self) -> Result<(), Failure> {
        let me = self.call("getMe", ONCE, &json!({})).await?;
        let username = readable(me["username"].as_str())?;
        // The caller stops after the first success, so this sets it once.
        let _ = self.username.set(username.to_owned());
        Ok(())
    }

    /// Gets updates from `offset` on, and confirms all earlier ones. Waits up to `wait` for the first.
    ///
    /// # Errors
    ///
    /// After one attempt.
    pub async fn updates(
        &self,
        offset: Option<u32>,
        limit: u8,
        wait: Duration,
    ) -> Result<Vec<Update>, Failure> {
        let (wait, timeout) = (wait.as_secs(), wait + TIMEOUT);
        let mut request =
            json!({ "limit": limit, "timeout": wait, "allowed_updates": UPDATE_KINDS });
        if let Some(offset) = offset {
            request["offset"] = offset.into();
        }
        let updates = self.attempt("getUpdates", &request, timeout).await?;
        readable(serde_json::from_value(updates).ok())
    }

    /// Deletes the webhook: Telegram refuses getUpdates while there is one.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn delete_webhook(&self) -> Result<(), Failure> {
        self.call("deleteWebhook", SHORTLY, &json!({}))
            .await
            .map(drop)
    }

    /// Registers the webhook at `url`.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn set_webhook(&self, url: &str, secret: &Secret) -> Result<(), Failure> {
        let request = json!({
            "url": url, "secret_token": secret.expose(), "allowed_updates": UPDATE_KINDS,
            "max_connections": MAX_CONNECTIONS,
        });
        self.call("setWebhook", SHORTLY, &request).await.map(drop)
    }

    /// The registered webhook.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn webhook(&self) -> Result<Webhook, Failure> {
        let webhook = self.call("getWebhookInfo", SHORTLY, &json!({})).await?;
        readable(serde_json::from_value(webhook).ok())
    }

    /// Registers the list of commands for each language, English for all others.
    ///
    /// # Errors
    ///
    /// The first failure after three attempts.
    pub async fn set_commands(&self, texts: &Texts) -> Result<(), Failure> {
        for language in Language::ALL {
            let commands = Command::ALL.map(|command| {
                let description = match command {
                    Command::Start => Id::COMMAND_START,
                    Command::ApiKey => Id::COMMAND_APIKEY,
                    Command::Help => Id::COMMAND_HELP,
                };
                let description = texts.plain(language, description);
                json!({ "command": command.name(), "description": description })
            });
            let code = match language {
                Language::English => "",
                other => other.code(),
            };
            let request = json!({ "commands": commands, "language_code": code });
            self.call("setMyCommands", SHORTLY, &request).await?;
        }
        Ok(())
    }

    /// Sends a message to the private chat with `user`. Returns its id. If answers are lost, the
    /// message may appear more than once, so it must not contain a key.
    ///
    /// # Errors
    ///
    /// A refusal, three lost answers, or an outage of Telegram for about an hour.
    pub async fn send(&self, user: u64, screen: &Screen) -> Result<MessageId, Failure> {
        let request = self.message(json!(user), user, screen);
        let sent = self.call("sendMessage", PATIENTLY, &request).await?;
        readable(sent["message_id"].as_i64().map(MessageId))
    }

    /// Sends a message to a group.
    ///
    /// # Errors
    ///
    /// After one attempt, because anybody can keep a group busy.
    pub async fn send_to_group(&self, chat: i64, screen: &Screen) -> Result<(), Failure> {
        let request = self.message(json!(chat), 0, screen);
        self.call("sendMessage", ONCE, &request).await.map(drop)
    }

    /// Replaces a message in the private chat with `user`. An unchanged message is a success.
    ///
    /// # Errors
    ///
    /// `Gone` if the message does not exist or cannot be edited; others after so many `attempts`.
    pub async fn edit(
        &self,
        user: u64,
        message: MessageId,
        screen: &Screen,
        attempts: u32,
    ) -> Result<(), Failure> {
        let mut request = self.message(json!(user), user, screen);
        request["message_id"] = message.0.into();
        match self.call("editMessageText", attempts, &request).await {
            Err(Failure::Same) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Answers a tap, which stops the spinner of the button. `text` appears in a window.
    ///
    /// # Errors
    ///
    /// After three attempts, or 3 seconds. A tap that is too old to be answered is a success.
    pub async fn answer(&self, query: &str, text: Option<String>) -> Result<(), Failure> {
        let mut request = json!({ "callback_query_id": query });
        if let Some(text) = text {
            request["text"] = text.into();
            request["show_alert"] = true.into();
        }
        // The timeout may end a pause, so it is not one of the job.
        let attempt = || self.attempt("answerCallbackQuery", &request, TIMEOUT);
        let call = repeated(SHORTLY, attempt, tokio::time::sleep);
        match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
            Ok(Err(Failure::Stale)) => Ok(()),
            Ok(answered) => answered.map(drop),
            Err(_) => Err(Failure::timeout()),
        }
    }

    async fn call(
        &self,
        method: &'static str,
        attempts: u32,
        request: &Value,
    ) -> Result<Value, Failure> {
        let attempt = || self.attempt(method, request, TIMEOUT);
        repeated(attempts, attempt, user_queues::pause).await
    }

    async fn attempt(
        &self,
        method: &'static str,
        request: &Value,
        timeout: Duration,
    ) -> Result<Value, Failure> {
        let url = format!("{}/{method}", self.url.expose());
        let answer = async {
            let response = self.client.post(url).timeout(timeout).json(request).send();
            let mut response = response.await?;
            let body = outgoing::body(&mut response, MAX_BODY).await?;
            Ok((response.status(), body))
        };
        let answer: Result<_, reqwest::Error> = answer.await;
        let answer = answer.map_err(|error| Failure::of_http(&error));
        let answer = answer.and_then(|(status, body)| {
            let body = readable(body)?;
            let mut answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            let result = answer.get_mut("result").map(Value::take);
            let code = answer["error_code"].as_u64();
            match (result, code.and_then(|code| u16::try_from(code).ok())) {
                (Some(result), _) => Ok(result),
                (_, Some(code)) => {
                    let text = answer["description"].as_str().unwrap_or_default();
                    let retry_after = answer["parameters"]["retry_after"].as_u64();
                    Err(Failure::of_answer(code, text, retry_after))
                }
                // A proxy before Telegram answers in its own words.
                _ if status.is_server_error() => Err(Failure::of_server(status.as_u16())),
                _ => readable(None),
            }
        });
        let outcome = answer.as_ref().err().map_or("ok", Failure::name);
        self.metrics.telegram(method, outcome);
        answer
    }

    /// The content of a message with buttons for `user`.
    fn message(&self, chat: Value, user: u64, screen: &Screen) -> Value {
        let row = |row: &Vec<Button>| row.iter().map(|button| self.button(user, button)).collect();
        let rows: Vec<Vec<Value>> = screen.rows.iter().map(row).collect();
        json!({
            "chat_id": chat, "text": screen.text.expose(), "parse_mode": "HTML",
            "link_preview_options": { "is_disabled": true },
            "reply_markup": { "inline_keyboard": rows },
        })
    }

    fn button(&self, user: u64, button: &Button) -> Value {
        let label = &button.label;
        match &button.action {
            ButtonAction::Callback(callback) => {
                json!({ "text": label, "callback_data": self.codec.write(user, *callback) })
            }
            ButtonAction::Copy(text) => {
                json!({ "text": label, "copy_text": { "text": text.expose() } })
            }
            ButtonAction::Page(url) => json!({ "text": label, "url": url }),
            ButtonAction::OpenBot => {
                json!({ "text": label, "url": format!("https://t.me/{}", self.username()) })
            }
        }
    }
}

fn readable<T>(answer: Option<T>) -> Result<T, Failure> {
    answer.ok_or_else(|| Failure::Lost("the answer cannot be read".to_owned()))
}

/// Makes up to `attempts` attempts, with pauses between them. Answers are lost three times at most,
/// because Telegram may have executed each of these attempts.
async fn repeated<T, F, W>(
    attempts: u32,
    mut attempt: impl FnMut() -> F,
    mut wait: impl FnMut(Duration) -> W,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
    W: Future<Output = ()>,
{
    let (mut failures, mut lost) = (0, 0);
    loop {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        failures += 1;
        lost += u32::from(matches!(failure, Failure::Lost(_)));
        let pause = match &failure {
            _ if failures >= attempts || lost >= SHORTLY => return Err(failure),
            Failure::TooMany(time) if *time <= MAX_RETRY_AFTER => *time,
            Failure::Unreachable(_) | Failure::Server(_) | Failure::Lost(_) => backoff(failures),
            _ => return Err(failure),
        };
        wait(pause).await;
    }
}

/// The pause after so many failures in a row: doubled each time up to a bound. A random part of it is
/// left out, so that calls do not come at once after an outage.
pub fn backoff(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(failures.clamp(1, 16) - 1);
    doubled.min(MAX_PAUSE).mul_f64(1.0 - fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests;
