//! The replication of the log into this instance, and this instance's membership.
//!
//! - [`Tail`] sends heartbeats, reads the log and drives the fence.
//! - [`Barrier`] lets a committed change wait until it is effective on every instance. On a shared
//!   store the confirmer does so for all changes of the process.
//! - [`Registration`] is this instance's row. [`watch_membership`] deletes the rows of unresponsive
//!   instances, and names the settled epoch.
//! - [`wake_on_store_notices`] and [`wake_on_l2_notices`] wake the tail at a change notice.
//! - [`end_graces`], [`trim_log`], [`trim_outbox`], [`SealMover`] and [`AuditKeeper`] keep the store in order. [`StoreTime`]
//!   keeps its time from falling. [`UseWriter`] writes the use of keys.
//! - [`NearCaches`] keeps caches in callers' processes fresh.
//! - [`watch_freshness`] reports when freshness starts and ends.
//!
//! Upholds I1, I5, I6, I7 and I9 with `fence`.

mod audit;
mod barrier;
mod confirmer;
mod freshness;
mod housekeeping;
mod imports;
mod near_caches;
mod near_stream;
mod notices;
mod reaper;
mod registration;
mod roster;
mod seals;
mod store_time;
mod tail;
mod uses;

pub use audit::AuditKeeper;
pub use barrier::{Barrier, Unconfirmed};
pub use freshness::watch_freshness;
pub(crate) use housekeeping::repeat;
pub use housekeeping::{end_graces, trim_log, trim_outbox};
pub use keyward_core::fence::{Receipt, Unsettled};
pub use near_caches::{NearCaches, NearLimits, NearRefusal, forget_near_caches};
pub use near_stream::NearStream;
pub use notices::{wake_on_l2_notices, wake_on_store_notices};
pub use reaper::watch_membership;
pub use registration::Registration;
pub use roster::{Roster, Sighting};
pub use seals::SealMover;
pub use store_time::{MACHINE_TOLERANCE, StoreTime, time_warning};
pub use tail::{HEARTBEAT, Tail};
pub use uses::UseWriter;
