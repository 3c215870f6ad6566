//! The whole bot with a fake Telegram and a fake Keyward: its screens, races and failures, and hostile
//! updates.
#![cfg(test)]

mod hostile;
mod keyward;
mod late_edits;
mod process;
mod races;
mod story;
mod webhook;
mod world;
