//! The store's time: an instance raises its floor on a shared store, so that it does not fall with the
//! clock of a server. A time that is far ahead is reported, because only an operator can lower it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use keyward_core::fence::Fence;
use keyward_core::key::Clock;
use keyward_store::Cluster;

const INTERVAL: Duration = Duration::from_secs(1);
/// The floor may be this much ahead of the server's clock without a warning: a clock is adjusted.
const FLOOR_TOLERANCE: Duration = Duration::from_secs(1);
/// The store's time may be this much ahead of this machine's without a warning.
pub const MACHINE_TOLERANCE: Duration = Duration::from_secs(60);

/// A warning if the store's time is far ahead: of the server's clock by `floor`, if there is a server, or of
/// this machine's by `machine`.
pub fn time_warning(floor: Option<Duration>, machine: Duration) -> Option<String> {
    let (ahead, of) = match floor {
        Some(floor) if is_ahead(Some(floor)) => (floor, "the server's clock"),
        _ if machine > MACHINE_TOLERANCE => (machine, "this machine's"),
        _ => return None,
    };
    Some(format!(
        "the store's time is {} ahead of {of}: keys expire too early. Check the clock of this machine \
         and of Postgres; the runbook says what to do",
        humantime::format_duration(Duration::from_secs(ahead.as_secs()))
    ))
}

fn is_ahead(floor: Option<Duration>) -> bool {
    floor.is_some_and(|ahead| ahead > FLOOR_TOLERANCE)
}

/// By how much the store's time is ahead.
pub struct StoreTime {
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    /// By how many microseconds the floor is ahead of the server's clock. `u64::MAX` if that is not known,
    /// as on the embedded store.
    floor_ahead: AtomicU64,
}

impl StoreTime {
    /// The time of the store whose log `fence` applies.
    pub fn new(fence: Arc<Fence>, clock: Arc<dyn Clock>) -> Self {
        Self {
            fence,
            clock,
            floor_ahead: AtomicU64::new(u64::MAX),
        }
    }

    /// By how much the store's time is ahead of the server's clock; of this machine's on the embedded
    /// store.
    pub fn ahead(&self) -> Duration {
        self.floor_ahead()
            .unwrap_or_else(|| self.ahead_of_machine())
    }

    fn floor_ahead(&self) -> Option<Duration> {
        let micros = self.floor_ahead.load(Ordering::Relaxed);
        (micros != u64::MAX).then(|| Duration::from_micros(micros))
    }

    fn floor_is_ahead(&self) -> bool {
        is_ahead(self.floor_ahead())
    }

    fn ahead_of_machine(&self) -> Duration {
        let store = self.fence.snapshot().database_time(self.clock.boot());
        store.since(self.clock.wall())
    }

    /// A warning if the store's time is far ahead.
    pub fn warning(&self) -> Option<String> {
        time_warning(self.floor_ahead(), self.ahead_of_machine())
    }

    /// Raises the floor of the store's time to the server's clock.
    pub async fn raise_floor(&self, cluster: &dyn Cluster) {
        // A store call that fails is logged where it is measured.
        let Ok(ahead) = cluster.raise_time_floor().await else {
            return;
        };
        let micros = u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX);
        self.floor_ahead.store(micros, Ordering::Relaxed);
    }

    /// Raises the floor about once a second until `stop`. Logs when the time begins to be ahead.
    pub async fn keep(self: Arc<Self>, cluster: Arc<dyn Cluster>, stop: CancellationToken) {
        let mut was_ahead = self.floor_is_ahead();
        while let Some(()) = stop.run_until_cancelled(sleep(INTERVAL)).await {
            self.raise_floor(&*cluster).await;
            let is_ahead = self.floor_is_ahead();
            if is_ahead
                && !was_ahead
                && let Some(warning) = self.warning()
            {
                tracing::warn!("{warning}");
            }
            was_ahead = is_ahead;
        }
    }
}
