//! Bytes that mean nothing.

/// Draws them: the same ones for each connection, so that a test that fails does so again.
pub(super) struct Noise(u32);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9E37_79B9)
    }
}

impl Noise {
    /// Replaces every byte by one without a place in ASCII: it begins no message of Redis, and ends
    /// none.
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
