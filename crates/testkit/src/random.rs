//! Randomness from a seed: the same seed gives the same choices.

use keyward_core::key::Entropy;
use parking_lot::Mutex;

/// A generator (SplitMix64). Not for secrets of a real deployment.
#[derive(Debug)]
pub struct Random(Mutex<u64>);

impl Random {
    /// A generator that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// A generator of its own for one part of a test, so that the other parts keep their choices.
    pub fn fork(&self) -> Self {
        Self::new(self.next())
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number from `from` to `to`, inclusive.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// An index below `length`; 0 if `length` is 0.
    pub fn index(&self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(length.max(1))).unwrap_or_default()
    }

    /// One of `items`, if there is one.
    pub fn pick<'i, T>(&self, items: &'i [T]) -> Option<&'i T> {
        items.get(self.index(items.len()))
    }
}

impl Entropy for Random {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
