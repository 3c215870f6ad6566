//! What threads share their state through. A build with `--cfg loom` replaces these types by those of
//! loom, which runs a test in every order of its steps and with every value that a load may return
//! (`tests/loom.rs`).

#[cfg(not(loom))]
pub(crate) use {
    arc_swap::ArcSwap,
    parking_lot::{Mutex, RwLock},
    std::sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};
#[cfg(loom)]
pub(crate) use {
    loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    under_loom::{ArcSwap, Mutex, RwLock},
};

#[cfg(loom)]
mod under_loom {
    #![expect(clippy::unwrap_used, reason = "no test goes on after a panic")]

    use std::sync::Arc;

    use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

    /// Like the one of parking_lot: a lock is not poisoned.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    /// Like the one of parking_lot.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap()
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap()
        }
    }

    /// Like the one of arc_swap: a load acquires what the store of its value released. It is a lock, because
    /// loom skips orders of a store that follows a load of its own thread (tokio-rs/loom#166).
    #[derive(Debug)]
    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self(Mutex::new(Arc::new(value)))
        }

        /// Boxed, so that it is dereferenced like the guard of arc_swap.
        pub(crate) fn load(&self) -> Box<Arc<T>> {
            Box::new(Arc::clone(&self.0.lock()))
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            *self.0.lock() = value;
        }
    }
}
