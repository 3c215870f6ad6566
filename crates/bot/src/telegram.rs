//! Calls to Telegram: retries safe calls, honours Telegram's `retry_after`, and maps every failure to
//! a `Failure` that a caller can act on.
//!
//! A URL of the Bot API contains the token, and an answer may contain a key. Neither leaves this
//! module; `failure` defines the text that a failure may contain.

pub mod failure;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyward_client::Secret;
use teloxide_core::payloads::setters::*;
use teloxide_core::requests::{Output, Request, Requester as _};
use teloxide_core::types::{
    AllowedUpdate, BotCommand, CallbackQueryId, ChatId, CopyTextButton, InlineKeyboardButton,
    InlineKeyboardMarkup, LinkPreviewOptions, MessageId, ParseMode, Update,
};
use teloxide_core::{Bot, RequestError, net};

use crate::callback::Codec;
use crate::events::Command;
use crate::i18n::{Id, Language, Texts};
use crate::metrics::Metrics;
use crate::screens::{ButtonAction, Screen};
use failure::Failure;

/// How long Telegram holds a poll that has no updates.
pub const POLL: Duration = Duration::from_secs(25);
/// Timeout of a call; a poll adds `POLL`.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
/// A call whose `retry_after` is longer fails.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Timeout of the answer to a tap.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Updates that Telegram pushes concurrently; this is its maximum.
const MAX_CONNECTIONS: u8 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// The kinds of updates that Telegram sends.
fn update_kinds() -> [AllowedUpdate; 2] {
    [AllowedUpdate::Message, AllowedUpdate::CallbackQuery]
}

/// A webhook as Telegram knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Whether it has the expected URL.
    pub is_ours: bool,
    /// When Telegram last failed to deliver an update, in seconds since 1970.
    pub last_error: Option<i64>,
    /// Why it failed.
    pub why: String,
}

/// The Bot API.
pub struct Telegram {
    calls: Bot,
    polls: Bot,
    codec: Codec,
    metrics: Arc<Metrics>,
    username: OnceLock<String>,
}

/// Whether a failed call is repeated, up to three attempts in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After every temporary failure, even if Telegram may have executed the call.
    Always,
    /// Only if Telegram cannot have executed the call.
    IfUnsent,
    /// One attempt.
    Never,
}

impl Telegram {
    /// The bot of `token` at `api_url`. Makes no call.
    ///
    /// # Errors
    ///
    /// An invalid URL; TLS that cannot be set up.
    pub fn new(token: &Secret, api_url: &str, metrics: Arc<Metrics>) -> Result<Self, String> {
        let bot = |timeout| {
            let client = net::default_reqwest_settings()
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(timeout)
                .build()
                .map_err(|error| format!("the client for Telegram: {}", failure::cause(&error)))?;
            let url = api_url.trim_end_matches('/').parse();
            let url = url.map_err(|error| format!("telegram_api_url: {error}"))?;
            Ok::<_, String>(Bot::with_client(token.expose(), client).set_api_url(url))
        };
        Ok(Self {
            calls: bot(TIMEOUT)?,
            polls: bot(POLL + TIMEOUT)?,
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
        let me = self
            .call("getMe", Retry::Never, self.calls.get_me())
            .await?;
        let name = me.user.username.clone().unwrap_or_default();
        // The caller stops after the first success, so this sets it once.
        let _ = self.username.set(name);
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
        let wait = u32::try_from(wait.as_secs()).unwrap_or(0);
        let request = self.polls.get_updates().limit(limit).timeout(wait);
        let mut request = request.allowed_updates(update_kinds());
        // Telegram's ids are positive 32-bit integers.
        request.offset = offset.and_then(|offset| i32::try_from(offset).ok());
        self.call("getUpdates", Retry::Never, request).await
    }

    /// Deletes the webhook: Telegram refuses getUpdates while there is one.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn delete_webhook(&self) -> Result<(), Failure> {
        let request = self.calls.delete_webhook();
        let deleted = self.call("deleteWebhook", Retry::Always, request).await;
        deleted.map(drop)
    }

    /// Registers the webhook at `url`.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn set_webhook(&self, url: &str, secret: &Secret) -> Result<(), Failure> {
        let url = url
            .parse()
            .map_err(|_| Failure::Refused("webhook_url".to_owned()))?;
        let request = self.calls.set_webhook(url).secret_token(secret.expose());
        let request = request
            .allowed_updates(update_kinds())
            .max_connections(MAX_CONNECTIONS);
        let set = self.call("setWebhook", Retry::Always, request).await;
        set.map(drop)
    }

    /// The registered webhook, compared with `url`.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn webhook(&self, url: &str) -> Result<Webhook, Failure> {
        let request = self.calls.get_webhook_info();
        let info = self.call("getWebhookInfo", Retry::Always, request).await?;
        Ok(Webhook {
            is_ours: info.url.is_some() && info.url == url.parse().ok(),
            last_error: info.last_error_date.map(|at| at.timestamp()),
            why: failure::words(&info.last_error_message.unwrap_or_default()),
        })
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
                BotCommand::new(command.name(), texts.plain(language, description))
            });
            let mut request = self.calls.set_my_commands(commands);
            let is_default = language == Language::English;
            request.language_code = (!is_default).then(|| language.code().to_owned());
            self.call("setMyCommands", Retry::Always, request).await?;
        }
        Ok(())
    }

    /// Sends a message to the private chat with `user`. Returns its id.
    ///
    /// # Errors
    ///
    /// After three attempts, or the first that Telegram may have executed.
    pub async fn send(&self, user: u64, screen: &Screen) -> Result<MessageId, Failure> {
        self.send_to(private(user), user, screen, Retry::IfUnsent)
            .await
    }

    /// Sends a message to a group.
    ///
    /// # Errors
    ///
    /// After one attempt, because anybody can keep a group busy.
    pub async fn send_to_group(&self, chat: i64, screen: &Screen) -> Result<MessageId, Failure> {
        self.send_to(ChatId(chat), 0, screen, Retry::Never).await
    }

    async fn send_to(
        &self,
        chat: ChatId,
        user: u64,
        screen: &Screen,
        retry: Retry,
    ) -> Result<MessageId, Failure> {
        let request = self
            .calls
            .send_message(chat, screen.text.expose())
            .parse_mode(ParseMode::Html)
            .link_preview_options(no_preview())
            .reply_markup(self.keyboard(user, screen));
        Ok(self.call("sendMessage", retry, request).await?.id)
    }

    /// Replaces a message in the private chat with `user`. An unchanged message is a success.
    ///
    /// # Errors
    ///
    /// `Gone` if the message does not exist or cannot be edited; others after the attempts of
    /// `retry`.
    pub async fn edit(
        &self,
        user: u64,
        message: MessageId,
        screen: &Screen,
        retry: Retry,
    ) -> Result<(), Failure> {
        let request = self
            .calls
            .edit_message_text(private(user), message, screen.text.expose())
            .parse_mode(ParseMode::Html)
            .link_preview_options(no_preview())
            .reply_markup(self.keyboard(user, screen));
        match self.call("editMessageText", retry, request).await {
            Ok(_) | Err(Failure::Same) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Answers a tap, which stops the spinner of the button. `text` appears in a window.
    ///
    /// # Errors
    ///
    /// After three attempts with `text`, or after 3 seconds without. A tap that is too old to be
    /// answered is a success.
    pub async fn answer(
        &self,
        query: &CallbackQueryId,
        text: Option<String>,
    ) -> Result<(), Failure> {
        let method = "answerCallbackQuery";
        let mut request = self.calls.answer_callback_query(query.clone());
        let answered = if text.is_some() {
            request.show_alert = Some(true);
            request.text = text;
            self.call(method, Retry::Always, request).await
        } else {
            let call = self.call(method, Retry::Never, request);
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, call).await;
            answered.unwrap_or_else(|_| Err(Failure::timeout()))
        };
        match answered {
            Ok(_) | Err(Failure::Stale) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn call<R>(
        &self,
        method: &'static str,
        retry: Retry,
        request: R,
    ) -> Result<Output<R>, Failure>
    where
        R: Request<Err = RequestError>,
    {
        let attempt = async || {
            let answer = request
                .send_ref()
                .await
                .map_err(|error| Failure::of(&error));
            let outcome = answer.as_ref().err().map_or("ok", Failure::name);
            self.metrics.telegram(method, outcome);
            answer
        };
        repeated(retry, attempt, tokio::time::sleep).await
    }

    fn keyboard(&self, user: u64, screen: &Screen) -> InlineKeyboardMarkup {
        let rows = screen.rows.iter().map(|row| {
            row.iter().filter_map(|button| {
                let label = button.label.clone();
                Some(match &button.action {
                    ButtonAction::Callback(action) => {
                        InlineKeyboardButton::callback(label, self.codec.write(user, *action))
                    }
                    ButtonAction::Copy(text) => {
                        let text = text.expose().to_owned();
                        InlineKeyboardButton::copy_text_button(label, CopyTextButton { text })
                    }
                    ButtonAction::OpenBot => {
                        let url = format!("https://t.me/{}", self.username());
                        InlineKeyboardButton::url(label, url.parse().ok()?)
                    }
                })
            })
        });
        InlineKeyboardMarkup::new(rows)
    }
}

/// Makes up to `ATTEMPTS` attempts, with pauses between them.
async fn repeated<T, F, W>(
    retry: Retry,
    mut attempt: impl FnMut() -> F,
    mut wait: impl FnMut(Duration) -> W,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
    W: Future<Output = ()>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let time = match (&failure, retry) {
            (_, Retry::Never) => return Err(failure),
            // Telegram has not executed the call.
            (Failure::TooMany(time), _) if *time <= MAX_RETRY_AFTER => *time,
            (Failure::Unreachable(_), _) | (Failure::Lost(_), Retry::Always) => pause,
            _ => return Err(failure),
        };
        wait(time).await;
        pause *= 2;
    }
    attempt().await
}

/// The private chat with a user has the id of the user. An impossible id becomes 0, which is no
/// chat.
fn private(user: u64) -> ChatId {
    ChatId(i64::try_from(user).unwrap_or(0))
}

const fn no_preview() -> LinkPreviewOptions {
    LinkPreviewOptions {
        is_disabled: true,
        url: None,
        prefer_small_media: false,
        prefer_large_media: false,
        show_above_text: false,
    }
}

#[cfg(test)]
mod tests;
