//! The whole bot against a Bot API and a Keyward of the tests' own: its turns, what users and
//! networks do to it, and what hostile updates do not.
#![cfg(test)]

mod hostile;
mod keyward;
mod owed;
mod process;
mod races;
mod story;
mod webhook;
mod world;
