//! Whether this instance sees every key that was imported. A foreign key is looked up under every scheme:
//! without one of the import secrets, the instance would not see that a text names a revoked key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::fence::{MAX_BEHIND, Page};
use keyward_core::key::KeyId;
use keyward_crypto::{CurrentKeyring, KeyKind};
use keyward_store::{Store, StoreError};

/// Compares the import secrets that the store requires with those of the keyring. The store requires a
/// secret before a key is imported under it, so it is enough to compare them when the log has an import.
pub(super) struct ImportCheck {
    keyring: Arc<CurrentKeyring>,
    /// Whether imports may have happened that no page shows.
    is_due: AtomicBool,
}

impl ImportCheck {
    pub(super) const fn new(keyring: Arc<CurrentKeyring>) -> Self {
        let is_due = AtomicBool::new(true);
        Self { keyring, is_due }
    }

    /// The next page may follow imports that no page showed.
    pub(super) fn repeat(&self) {
        self.is_due.store(true, Ordering::SeqCst);
    }

    /// The number of an import secret that the keyring lacks, if `page`, which was read at `applied`, can only
    /// be applied with it. An instance without a foreign pepper looks no foreign key up.
    pub(super) async fn missing(
        &self,
        store: &dyn Store,
        page: &Page,
        applied: u64,
    ) -> Result<Option<u32>, StoreError> {
        let imports = page.rows.iter().any(|row| row.id == KeyId::IMPORTS);
        let jumps = page.head.saturating_sub(applied) > MAX_BEHIND;
        let is_due = imports || jumps || self.is_due.load(Ordering::SeqCst);
        let keyring = self.keyring.load_full();
        if !is_due || !keyring.has_foreign_pepper() {
            return Ok(None);
        }
        let (known, ours) = (store.known_keys().await?, keyring.check_values());
        let required = known.iter().filter(|key| key.state.is_required());
        let mut secrets = required
            .map(|key| &key.check)
            .filter(|check| check.kind == KeyKind::Import);
        let missing = secrets.find(|check| !ours.contains(check));
        self.is_due.store(missing.is_some(), Ordering::SeqCst);
        Ok(missing.map(|check| check.number))
    }
}
