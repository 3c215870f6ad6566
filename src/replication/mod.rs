//! The tail: reads the log, drives the fence, and lets a change wait until it holds everywhere.
//! And what makes an instance one of several: it joins and leaves, hears hints, reaps the silent.

mod barrier;
mod hints;
mod member;
mod reaper;
mod tail;
mod watch;
mod watcher;

pub use barrier::{Barrier, Unconfirmed};
pub use hints::{follow_announcements, follow_hints};
pub use keyward_core::fence::Receipt;
pub use member::Member;
pub use reaper::reap_the_silent;
pub use tail::{HEARTBEAT, Tail};
pub use watch::watch_freshness;
