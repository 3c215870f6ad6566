//! Moves sealed copies to the active sealing key, in the background. The rows say what is left, so an
//! instance goes on where another one has stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::housekeeping::repeat;
use keyward_core::key::Entropy;
use keyward_crypto::{CurrentKeyring, KeyKind, Keyring, SealPurpose};
use keyward_ops::KeyringMetrics;
use keyward_store::keyring::active;
use keyward_store::{KnownState, Result, SealMove, Store, StoredKey};

const INTERVAL: Duration = Duration::from_secs(5);
/// The most copies in one step.
const STEP: u32 = 100;
/// The pause after a step, in which others write.
const PAUSE: Duration = Duration::from_millis(20);

/// Moves the sealed copies of one store.
pub struct SealMover {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keyring with the sealing keys.
    pub keyring: Arc<CurrentKeyring>,
    /// The random numbers of new copies.
    pub entropy: Arc<dyn Entropy>,
    /// What is counted.
    pub metrics: KeyringMetrics,
}

impl SealMover {
    /// Moves copies whenever some are left, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // How many copies could not be opened when that was logged last.
        let unopened = AtomicUsize::new(0);
        repeat(INTERVAL, "moved sealed copies", stop, || {
            self.step(&unopened)
        })
        .await;
    }

    /// Moves some copies and returns their number; 0 if none is left that can be moved.
    async fn step(&self, logged: &AtomicUsize) -> Result<u64> {
        let known = self.store.known_keys().await?;
        let keyring = self.keyring.load_full();
        // Before this instance has followed an activation, it would move copies back.
        if active(&known).seal != Some(keyring.active_seal()) {
            return Ok(0);
        }
        let older = known.iter().filter(|key| {
            key.check.kind == KeyKind::Seal
                && !matches!(key.state, KnownState::Active | KnownState::Retired)
        });
        let mut unopened = 0;
        for seal in older {
            let mut after = None;
            loop {
                let number = seal.check.number;
                let rows = self.store.sealed_under(number, after, STEP).await?;
                let Some(last) = rows.last() else { break };
                after = Some(last.record.id);
                let moves: Vec<_> = rows
                    .iter()
                    .filter_map(|row| self.moved(row, &keyring))
                    .collect();
                unopened += rows.len() - moves.len();
                let moved = self.store.move_seals(moves).await?;
                self.metrics.seals_moved.inc_by(moved);
                if moved > 0 {
                    tokio::time::sleep(PAUSE).await;
                    return Ok(moved);
                }
            }
        }
        if logged.swap(unopened, Ordering::Relaxed) < unopened {
            tracing::error!(
                "{unopened} sealed copies cannot be opened, so they stay under their sealing key: revoke \
                 their keys to retire it"
            );
        }
        Ok(0)
    }

    /// The move of a copy; `None` if it cannot be opened.
    fn moved(&self, row: &StoredKey, keyring: &Keyring) -> Option<SealMove> {
        let (id, account) = (row.record.id, &row.record.account);
        let old = row.sealed.clone()?;
        let purpose = SealPurpose::RECOVERABLE_KEY;
        let text = keyring.open(purpose, &id, account, &old).ok()?;
        let new = keyring.seal(purpose, &id, account, &text, &*self.entropy);
        Some(SealMove {
            id,
            old,
            new: new.ok()?,
        })
    }
}
