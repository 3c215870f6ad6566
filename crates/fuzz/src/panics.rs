//! Notices panics in tasks, which the runtime and the bot catch.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static HOOK: Once = Once::new();

/// Runs `work`, and panics if anything panicked meanwhile.
pub(crate) fn none_during<T>(work: impl FnOnce() -> T) -> T {
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            COUNT.fetch_add(1, Ordering::SeqCst);
            previous(panic);
        }));
    });
    let before = COUNT.load(Ordering::SeqCst);
    let done = work();
    let count = COUNT.load(Ordering::SeqCst) - before;
    assert_eq!(count, 0, "a task panicked");
    done
}
