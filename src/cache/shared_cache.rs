//! The contract of a cache that instances share. Correctness never depends on it: the fence admits
//! each record that it returns.

use async_trait::async_trait;

use super::Record;
use keyward_core::fence::Stamp;

/// A cache behind L1, shared by instances.
#[async_trait]
pub trait SharedCache<R: Record>: Send + Sync + 'static {
    /// The entry for each of `digests`; `None` also if the cache is unavailable. The call has a time limit.
    async fn get_many(&self, digests: &[R::Digests]) -> Vec<Option<(R, Stamp)>>;

    /// Stores an admitted record without waiting for the result. It may fail silently.
    fn put(&self, digests: &R::Digests, record: &R, stamp: Stamp);

    /// Counts an entry of this cache that the fence did not admit.
    fn note_refused(&self);
}
