//! The types of a key ([`key`]) and the code that decides whether a cached record may be used
//! ([`fence`]). Pure: no I/O, no async; clock and randomness are passed in.

#[macro_use]
mod macros;

pub mod fence;
pub mod key;
mod sync;
