//! The whole bot with a fake Telegram and a fake Keyward: its screens, races and failures, and hostile
//! updates.
#![cfg(test)]

mod bots;
mod host;
mod hostile;
mod keyward;
mod late_edits;
mod process;
mod races;
mod slots;
mod story;
mod webhook;
mod world;
