//! What the fuzzer runs. A target reads bytes as an attacker could send them, and panics if a rule
//! does not hold. The fuzzer in `fuzz/` and the ordinary tests of this crate run the same targets.
#![expect(
    clippy::expect_used,
    reason = "a target that cannot start its world fails, like one that finds a fault"
)]

pub mod bot_updates;
pub mod cache_entry;
pub mod http;
pub mod key_text;
pub mod keyring;
pub mod near_polls;
pub mod page_token;
mod panics;
pub mod requests;
pub mod settings;
mod world;

use parking_lot::Mutex;

/// Runs one input, on a world that the target keeps between its inputs.
pub type Target = Box<dyn FnMut(&[u8]) + Send>;

/// A target as the fuzzer needs it: static, and started by its first input.
pub struct Shared {
    start: fn() -> Target,
    target: Mutex<Option<Target>>,
}

impl Shared {
    /// The target that `start` starts.
    pub const fn new(start: fn() -> Target) -> Self {
        Self {
            start,
            target: Mutex::new(None),
        }
    }

    /// Runs one input.
    pub fn run(&self, data: &[u8]) {
        self.target.lock().get_or_insert_with(self.start)(data);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}
