//! Seals the audit once a minute, and deletes its old events. Every instance does both; the store lets one
//! seal at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::housekeeping::repeat;
use keyward_core::key::Entropy;
use keyward_crypto::CurrentKeyring;
use keyward_ops::AuditMetrics;
use keyward_store::audit_chain::trim_proof;
use keyward_store::keyring::active;
use keyward_store::{Result, Sealing, Store, Trimming};

const SEALING: Duration = Duration::from_secs(60);
/// When an instance seals for the first time after its start.
const FIRST: Duration = Duration::from_secs(5);
/// The least time between two seals: instances that seal at different seconds of a minute make one.
const PAUSE: Duration = Duration::from_secs(55);
const TRIMMING: Duration = Duration::from_secs(3_600);

/// Seals and trims the audit of one store.
pub struct AuditKeeper {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keyring with the active audit key.
    pub keyring: Arc<CurrentKeyring>,
    /// The random numbers of the seals.
    pub entropy: Arc<dyn Entropy>,
    /// What is counted.
    pub metrics: AuditMetrics,
}

impl AuditKeeper {
    /// Seals events until `stop`. Deletes those that are older than `retention`, if there is one.
    pub async fn run(self, retention: Option<Duration>, stop: CancellationToken) {
        let (ended, has_warned) = (stop.clone(), AtomicBool::new(false));
        let sealing = async {
            if ended.run_until_cancelled(sleep(FIRST)).await.is_none() {
                return;
            }
            // What an instance that stopped has left. The store logs a failure.
            let _ = self.counted_seal(&has_warned).await;
            let step = || self.counted_seal(&has_warned);
            repeat(SEALING, "sealed the audit", ended, step).await;
        };
        let trimming = async {
            if let Some(kept) = retention {
                let step = || self.trim(kept);
                repeat(TRIMMING, "trimmed the audit", stop, step).await;
            }
        };
        tokio::join!(sealing, trimming);
    }

    async fn counted_seal(&self, has_warned: &AtomicBool) -> Result<u64> {
        let sealed = self.seal(has_warned).await;
        match sealed {
            Ok(Some(_)) => &self.metrics.done,
            Ok(None) => &self.metrics.no_key,
            Err(_) => &self.metrics.failed,
        }
        .inc();
        Ok(sealed?.unwrap_or_default())
    }

    /// Makes a seal if one is due. Returns the number of its events if more may be left; `None` without the
    /// active audit key.
    async fn seal(&self, has_warned: &AtomicBool) -> Result<Option<u64>> {
        let known = self.store.known_keys().await?;
        let key = self.keyring.load().audit_key();
        // Before this instance has followed an activation, others could not check its seals.
        let Some(key) = key.filter(|key| active(&known).audit == Some(key.version())) else {
            if active(&known).audit.is_none() && !has_warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the audit is not sealed, because no audit key is active: run `keyward keyring add \
                     audit`, copy the file to every instance, and run `keyward keyring activate audit`"
                );
            }
            return Ok(None);
        };
        let sealing = Sealing {
            key,
            entropy: Arc::clone(&self.entropy),
            pause: PAUSE,
        };
        let Some((seal, events)) = self.store.seal_events(&sealing).await? else {
            return Ok(Some(0));
        };
        // Kept elsewhere, this line shows later that the end of the audit was cut.
        tracing::info!(target: "keyward::audit", %seal, events, "sealed the audit");
        Ok(Some(match seal.is_complete {
            true => 0,
            false => events as u64,
        }))
    }

    async fn trim(&self, kept: Duration) -> Result<u64> {
        let keyring = self.keyring.load_full();
        let trimming = Trimming {
            kept,
            proof: Arc::new(move |seal| {
                let key = keyring.audit_key_of(seal.key)?;
                Some(trim_proof(&key, seal))
            }),
        };
        self.store.trim_events(&trimming).await
    }
}
