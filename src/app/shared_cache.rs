//! Builds the L2 cache from the settings.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::cache::l2::L2;
use crate::config::Settings;
use keyward_core::key::Entropy;
use keyward_crypto::{CacheKey, Keyring};
use keyward_ops::{L2Metrics, Tasks};

/// Starts the L2 cache, if the settings name one. It connects in the background.
pub(super) fn start(
    settings: &Settings,
    keyring: &Keyring,
    entropy: &Arc<dyn Entropy>,
    metrics: &L2Metrics,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Result<Option<L2>, StartError> {
    let Some(address) = &settings.redis else {
        return Ok(None);
    };
    let key = cache_key(settings, keyring)?;
    tracing::info!(cache_key = key.version(), "redis: {address}");
    let entropy = Arc::clone(entropy);
    let l2 = L2::start(address.clone(), key, entropy, metrics.clone(), tasks, stop)?;
    Ok(Some(l2))
}

/// The key that protects entries and change notices.
pub(super) fn cache_key(
    settings: &Settings,
    keyring: &Keyring,
) -> Result<Arc<CacheKey>, StartError> {
    keyring.cache_key().ok_or_else(|| {
        StartError(format!(
            "the keyring {} has no file cache-<number>, which the setting `redis` requires. Run \
             `keyward keyring add cache` and copy the new file to all instances, or remove the setting \
             `redis`",
            settings.keyring.display()
        ))
    })
}
