//! What a key is ([`key`]) and what decides whether it lives ([`fence`]). Pure: no I/O, no async;
//! clock and randomness are passed in.

pub mod fence;
pub mod key;
