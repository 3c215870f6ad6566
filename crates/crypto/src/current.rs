//! The keyring in use, which a running instance replaces as a whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::keyring::Keyring;

/// The keyring in use. To read it takes no lock.
pub struct CurrentKeyring(ArcSwap<Keyring>);

impl CurrentKeyring {
    /// Begins with `keyring`.
    pub fn new(keyring: Keyring) -> Self {
        Self(ArcSwap::from_pointee(keyring))
    }

    /// The keyring for one short use.
    pub fn load(&self) -> Guard<Arc<Keyring>> {
        self.0.load()
    }

    /// The keyring for a use that takes longer, such as a call that waits for the store.
    pub fn load_full(&self) -> Arc<Keyring> {
        self.0.load_full()
    }

    /// Replaces the keyring for all later uses.
    pub fn replace(&self, keyring: Keyring) {
        self.0.store(Arc::new(keyring));
    }
}

impl std::fmt::Debug for CurrentKeyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.load().fmt(f)
    }
}
