//! Writes the use of keys to the store, in the background. Each key is written at most once in an interval,
//! and what is written in one is limited. If more keys are in use, each interval writes a part of them, so
//! that every key has its turn. A failed write is kept for the next interval.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::cache::{Collected, ForeignKeys, L1, Share, Uses};
use keyward_core::key::{KeyId, KeyRecord, KeyUse};
use keyward_ops::UseMetrics;
use keyward_store::Store;

/// The most keys of one statement. It takes few milliseconds, in which the embedded store writes nothing
/// else.
const ROWS: usize = 500;
/// The pause after a statement, in which others write.
const PAUSE: Duration = Duration::from_millis(100);
/// The most keys that are written in a second, on average over an interval.
const PER_SECOND: u64 = 2_000;

/// Writes the use of the keys of one instance.
pub struct UseWriter {
    /// Where to write.
    pub store: Arc<dyn Store>,
    /// What no entry holds.
    pub uses: Arc<Uses>,
    /// The keys in memory.
    pub keys: Arc<L1<KeyRecord>>,
    /// The foreign keys in memory.
    pub foreign: Arc<L1<ForeignKeys>>,
    /// The time between two writes of a key.
    pub interval: Duration,
    /// Where writes are counted.
    pub metrics: UseMetrics,
}

impl UseWriter {
    /// Writes until `stop`, and then all that is left.
    pub async fn run(self, stop: CancellationToken) {
        let seconds = self.interval.as_secs().max(1);
        let most = usize::try_from(seconds * PER_SECOND).unwrap_or(usize::MAX);
        let mut share = Share { most, ..Share::ALL };
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let resolution = self.interval.as_secs_f64() * share.of as f64;
            self.metrics.resolution.set(resolution);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let collected = self.collect(share).await;
            share.turn = share.turn.wrapping_add(1);
            share.of = collected.noted.div_ceil(most).max(1);
            self.write(collected, PAUSE, &stop).await;
        }
        let rest = self.collect(Share::ALL).await;
        self.write(rest, Duration::ZERO, &CancellationToken::new())
            .await;
    }

    async fn collect(&self, share: Share) -> Collected {
        let (uses, keys) = (Arc::clone(&self.uses), Arc::clone(&self.keys));
        let foreign = Arc::clone(&self.foreign);
        let work = move || uses.collect(&keys, &foreign, share);
        // A panic is in the log, and the use is lost.
        tokio::task::spawn_blocking(work).await.unwrap_or_default()
    }

    /// Writes in steps. What is not written at `stop` or after a failure is kept.
    async fn write(&self, collected: Collected, pause: Duration, stop: &CancellationToken) {
        let mut rows: Vec<(KeyId, KeyUse)> = collected.taken.into_iter().collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        let mut steps = rows.chunks(ROWS);
        while let Some(step) = steps.next() {
            if stop.is_cancelled() || self.store.note_uses(step).await.is_err() {
                // The store's calls are logged where they fail.
                let rest = step.iter().chain(steps.flatten());
                rest.for_each(|(id, noted)| self.uses.report(*id, *noted));
                return;
            }
            let written = u64::try_from(step.len()).unwrap_or(u64::MAX);
            self.metrics.written.inc_by(written);
            if steps.len() > 0 {
                sleep(pause).await;
            }
        }
    }
}
