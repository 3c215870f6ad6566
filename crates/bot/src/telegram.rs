//! Calls to Telegram: what may be repeated is, what Telegram asks to wait for is waited for, and
//! every failure becomes one of a few that a caller can act on.
//!
//! A URL of the Bot API holds the token, and an answer may hold a message that shows a key: neither
//! gets out of here. `failure` says what a failure may be made of.

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
use crate::screens::{Press, Screen};
use failure::Failure;

/// How long Telegram may wait for an update before it answers that there is none.
pub const POLL: Duration = Duration::from_secs(25);
/// Beyond `POLL`, and for every other call: after so long there is no answer.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 3;
/// A longer wait is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long Telegram may take to hear that a tap was taken.
const ANSWERING: Duration = Duration::from_secs(3);
/// How many updates Telegram may push at the same time: as many as it can.
const MAX_CONNECTIONS: u8 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(300);

/// What the bot wants to be told of.
fn wanted() -> [AllowedUpdate; 2] {
    [AllowedUpdate::Message, AllowedUpdate::CallbackQuery]
}

/// A webhook as Telegram knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Whether it leads where it should.
    pub is_ours: bool,
    /// When an update last could not be delivered, in seconds since 1970.
    pub failed: Option<i64>,
    /// Why.
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

/// Whether a call that failed is made again, up to three times in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Also when it may have come through.
    Yes,
    /// Only when it cannot have come through.
    Unsent,
    /// Its caller does, or it is not worth the time.
    No,
}

impl Telegram {
    /// The bot of `token` at `api_url`. Makes no call.
    ///
    /// # Errors
    ///
    /// A URL that is none; TLS that cannot be set up.
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

    /// What buttons carry.
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
        let me = self.call("getMe", Repeat::No, self.calls.get_me()).await?;
        let name = me.user.username.clone().unwrap_or_default();
        // It is asked until it is known, so it is set once.
        let _ = self.username.set(name);
        Ok(())
    }

    /// Updates from `offset` on, and confirms all before it. Waits for `wait` if there are none.
    ///
    /// # Errors
    ///
    /// At once, without another attempt.
    pub async fn updates(
        &self,
        offset: Option<u32>,
        limit: u8,
        wait: Duration,
    ) -> Result<Vec<Update>, Failure> {
        let wait = u32::try_from(wait.as_secs()).unwrap_or(0);
        let request = self.polls.get_updates().limit(limit).timeout(wait);
        let mut request = request.allowed_updates(wanted());
        // Telegram's ids are positive and fit.
        request.offset = offset.and_then(|offset| i32::try_from(offset).ok());
        self.call("getUpdates", Repeat::No, request).await
    }

    /// Takes a webhook away: Telegram refuses getUpdates beside one.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn delete_webhook(&self) -> Result<(), Failure> {
        let request = self.calls.delete_webhook();
        self.call("deleteWebhook", Repeat::Yes, request)
            .await
            .map(drop)
    }

    /// Has Telegram send updates to `url`.
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
            .allowed_updates(wanted())
            .max_connections(MAX_CONNECTIONS);
        self.call("setWebhook", Repeat::Yes, request)
            .await
            .map(drop)
    }

    /// Whether Telegram sends updates to `url`, and when that last failed.
    ///
    /// # Errors
    ///
    /// After three attempts.
    pub async fn webhook(&self, url: &str) -> Result<Webhook, Failure> {
        let request = self.calls.get_webhook_info();
        let info = self.call("getWebhookInfo", Repeat::Yes, request).await?;
        Ok(Webhook {
            is_ours: info.url.is_some() && info.url == url.parse().ok(),
            failed: info.last_error_date.map(|at| at.timestamp()),
            why: failure::words(&info.last_error_message.unwrap_or_default()),
        })
    }

    /// Registers the list of commands for each language, English for all others.
    ///
    /// # Errors
    ///
    /// At the first that fails after three attempts.
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
            self.call("setMyCommands", Repeat::Yes, request).await?;
        }
        Ok(())
    }

    /// Sends a message to the private chat with `user`, and gives its id.
    ///
    /// # Errors
    ///
    /// After three attempts. One that may have come through is not made again.
    pub async fn send(&self, user: u64, screen: &Screen) -> Result<i32, Failure> {
        let request = self
            .calls
            .send_message(private(user), screen.text.expose())
            .parse_mode(ParseMode::Html)
            .link_preview_options(no_preview())
            .reply_markup(self.keyboard(user, screen));
        let sent = self.call("sendMessage", Repeat::Unsent, request).await?;
        Ok(sent.id.0)
    }

    /// Says something in a group: once, for a group may be kept busy by anybody.
    ///
    /// # Errors
    ///
    /// At once.
    pub async fn send_to_group(&self, chat: i64, screen: &Screen) -> Result<(), Failure> {
        let request = self
            .calls
            .send_message(ChatId(chat), screen.text.expose())
            .parse_mode(ParseMode::Html)
            .reply_markup(self.keyboard(0, screen));
        self.call("sendMessage", Repeat::No, request)
            .await
            .map(drop)
    }

    /// Replaces a message in the private chat with `user`. One that is so already is fine.
    ///
    /// # Errors
    ///
    /// `Gone` if there is no such message, or it cannot be edited; others as `repeat` says.
    pub async fn edit(
        &self,
        user: u64,
        message: i32,
        screen: &Screen,
        repeat: Repeat,
    ) -> Result<(), Failure> {
        let request = self
            .calls
            .edit_message_text(private(user), MessageId(message), screen.text.expose())
            .parse_mode(ParseMode::Html)
            .link_preview_options(no_preview())
            .reply_markup(self.keyboard(user, screen));
        match self.call("editMessageText", repeat, request).await {
            Ok(_) | Err(Failure::Same) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Ends the waiting of a button that was pressed; with `text`, in a window.
    ///
    /// # Errors
    ///
    /// After three attempts with `text`, or 3 seconds without. A query that is too old is fine.
    pub async fn answer(
        &self,
        query: &CallbackQueryId,
        text: Option<String>,
    ) -> Result<(), Failure> {
        let mut request = self.calls.answer_callback_query(query.clone());
        request.show_alert = text.is_some().then_some(true);
        let repeat = match text.is_some() {
            true => Repeat::Yes,
            false => Repeat::No,
        };
        request.text = text;
        let answering = self.call("answerCallbackQuery", repeat, request);
        let answered = match repeat {
            Repeat::No => tokio::time::timeout(ANSWERING, answering)
                .await
                .unwrap_or_else(|_| Err(Failure::Lost("there was no answer in time".to_owned()))),
            _ => answering.await,
        };
        match answered {
            Ok(_) | Err(Failure::Stale) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    async fn call<R>(
        &self,
        method: &'static str,
        repeat: Repeat,
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
        repeated(repeat, attempt, tokio::time::sleep).await
    }

    fn keyboard(&self, user: u64, screen: &Screen) -> InlineKeyboardMarkup {
        let rows = screen.rows.iter().map(|row| {
            row.iter().filter_map(|button| {
                let label = button.label.clone();
                Some(match &button.press {
                    Press::Do(action) => {
                        InlineKeyboardButton::callback(label, self.codec.write(user, *action))
                    }
                    Press::Copy(text) => InlineKeyboardButton::copy_text_button(
                        label,
                        CopyTextButton {
                            text: text.expose().to_owned(),
                        },
                    ),
                    Press::OpenBot => {
                        let url = format!("https://t.me/{}", self.username());
                        InlineKeyboardButton::url(label, url.parse().ok()?)
                    }
                })
            })
        });
        InlineKeyboardMarkup::new(rows)
    }
}

/// Makes the attempts that are allowed, with the waits that are asked for.
async fn repeated<T, F, W>(
    repeat: Repeat,
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
        let asked = match (&failure, repeat) {
            (_, Repeat::No) => return Err(failure),
            // It was not done, whatever it was.
            (Failure::TooMany(asked), _) if *asked <= LONGEST_WAIT => *asked,
            (Failure::Unreachable(_), _) | (Failure::Lost(_), Repeat::Yes) => pause,
            _ => return Err(failure),
        };
        wait(asked).await;
        pause *= 2;
    }
    attempt().await
}

/// The private chat with a user has the user's id. An id that Telegram cannot have reaches nobody.
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
