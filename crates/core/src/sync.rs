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

    use super::{AtomicUsize, Ordering};

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

    /// What arc_swap promises: a load returns a whole value, and acquires what its store released. loom
    /// does not see the list, because its lock is never held across a step of the test.
    #[derive(Debug)]
    pub(crate) struct ArcSwap<T> {
        values: std::sync::Mutex<Vec<Arc<T>>>,
        latest: AtomicUsize,
    }

    impl<T> ArcSwap<T> {
        pub(crate) fn from_pointee(value: T) -> Self {
            Self {
                values: std::sync::Mutex::new(vec![Arc::new(value)]),
                latest: AtomicUsize::new(0),
            }
        }

        /// Boxed, so that it is dereferenced like the guard of arc_swap.
        pub(crate) fn load(&self) -> Box<Arc<T>> {
            let latest = self.latest.load(Ordering::Acquire);
            Box::new(Arc::clone(&self.values.lock().unwrap()[latest]))
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            let latest = {
                let mut values = self.values.lock().unwrap();
                values.push(value);
                values.len() - 1
            };
            self.latest.store(latest, Ordering::Release);
        }
    }
}
