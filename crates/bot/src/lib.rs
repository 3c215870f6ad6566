//! The Telegram front end of Keyward: users see the API key of their account and replace it.
//!
//! All decisions are pure: `events` reads an update, `callback` checks a button, `flow` decides what
//! to do and what to show, `answers` says what Keyward has proven, and `screens` renders a view in a
//! language. Around them, `updates` or `webhook` gives updates to `intake`, which queues them for
//! `handler`; `handler` gets the account from `account` or `host`, calls Keyward through `authority`,
//! and shows views through `messages`, which calls Telegram.
//!
//! The bot stores nothing. A button names its action and its key, Keyward stores every change, and
//! Telegram repeats an update until the bot confirms it.

pub mod account;
pub mod answers;
pub mod app;
pub mod authority;
pub mod callback;
pub mod events;
pub mod flow;
pub mod handler;
pub mod health;
pub mod host;
pub mod i18n;
pub mod in_flight;
pub mod intake;
pub mod limits;
pub mod messages;
pub mod metrics;
pub mod outage;
pub mod revoke_outcomes;
pub mod screens;
pub mod settings;
pub mod telegram;
pub mod tracked;
pub mod updates;
pub mod user_queues;
pub mod webhook;
