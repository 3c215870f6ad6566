//! The Telegram front end of Keyward: a user sees the API key of the own account, and replaces it.
//!
//! What decides is pure: `callback` (what a button may do, and for whom), `events` (what an update
//! asks), `flow` (what to show, given what Keyward said), `screens` (how it looks in a language).
//! Around it are `telegram` and `authority`, the two sides that it talks to, `handler`, which turns
//! one event into calls, and `desk` with `updates` or `webhook`, through which events come.
//!
//! The bot keeps nothing that must outlive it. A button names what it does, Keyward knows what was
//! done, and Telegram keeps an update until it was handled.

pub mod account;
pub mod app;
pub mod authority;
pub mod board;
pub mod callback;
pub mod confirmed;
pub mod desk;
pub mod events;
pub mod flow;
pub mod handler;
pub mod health;
pub mod i18n;
pub mod in_flight;
pub mod lanes;
pub mod limits;
pub mod metrics;
pub mod samples;
pub mod screens;
pub mod settings;
pub mod shown;
pub mod telegram;
pub mod updates;
pub mod webhook;
