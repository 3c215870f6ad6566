//! Random bytes.

/// Generates the same bytes for each connection, so that a failure can be reproduced.
pub(super) struct Noise(u32);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9E37_79B9)
    }
}

impl Noise {
    /// Replaces every byte by one outside ASCII, which can neither start nor end a Redis message.
    pub(super) fn replace(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            // Xorshift.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            *byte = self.0.to_le_bytes()[0] | 0x80;
        }
    }
}
