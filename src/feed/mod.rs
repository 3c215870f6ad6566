//! The tail: reads the log, drives the fence, and lets a change wait until it holds everywhere.

mod barrier;
mod tail;
mod watch;

pub use barrier::{Barrier, Receipt, Unconfirmed};
pub use tail::{BEAT, Tail};
pub use watch::watch_freshness;
