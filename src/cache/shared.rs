//! What a cache must do that instances share. Nothing depends on it for being right: whatever it
//! answers, the same predicate admits it.

use async_trait::async_trait;

use keyward_core::fence::Stamp;
use keyward_crypto::Digest;

/// A cache behind the one in memory.
#[async_trait]
pub trait Shared<R>: Send + Sync + 'static {
    /// What it holds for `digest`, and how recent that is; `None` also when it cannot tell now. Never
    /// takes longer than its bound.
    async fn get(&self, digest: &Digest) -> Option<(R, Stamp)>;

    /// Keeps a record that was admitted, without waiting for it; it may come to nothing.
    fn put(&self, digest: &Digest, record: &R, stamp: Stamp);

    /// Counts that what it answered was not admitted.
    fn note_refused(&self);
}
