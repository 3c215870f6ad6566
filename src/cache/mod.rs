//! Finding the record behind a digest: memory first, then the cache that instances share, then the
//! store. Whatever was found, and wherever, the same predicate admits it. What is cached is the record with its revision, never
//! a verdict.

mod l1;
pub mod l2;
mod shared;
mod single_flight;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use keyward_core::fence::{Admission, Fence, Now, Snapshot, Stamp};
use keyward_core::key::{Clock, KeyId, KeyRecord, Timestamp, TokenRecord};
use keyward_crypto::Digest;
use keyward_ops::CacheMetrics;
use keyward_store::{Found, StoreError};

pub use l1::{Entry, L1};
pub use shared::Shared;
pub use single_flight::{Dependencies, Fetch, Limiter, SingleFlight};

/// How often a record that was refused is read again before the answer is UNAVAILABLE.
const READ_AGAIN: usize = 3;

/// A record that changes are logged for.
pub trait Fenced: Send + Sync + 'static {
    /// The id that the log names it by.
    fn id(&self) -> KeyId;
    /// About how many bytes it takes in memory.
    fn weight(&self) -> usize;
}

impl Fenced for KeyRecord {
    fn id(&self) -> KeyId {
        self.id
    }

    fn weight(&self) -> usize {
        let text = |length: usize| length + size_of::<String>();
        size_of::<Self>()
            + self.account.as_str().len()
            + self
                .scopes
                .as_slice()
                .iter()
                .map(|scope| text(scope.len()))
                .sum::<usize>()
            + self
                .metadata
                .entries()
                .iter()
                .map(|(k, v)| text(k.len()) + text(v.len()))
                .sum::<usize>()
            + self.networks.count() * size_of::<ipnet::IpNet>()
    }
}

impl Fenced for TokenRecord {
    fn id(&self) -> KeyId {
        self.id
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + self.name.as_str().len()
    }
}

/// Why no answer can be given. Never says anything about the key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// This instance cannot prove now that it knows of every change.
    #[error("freshness cannot be proven")]
    NotFresh,
    /// Too many reads are waiting for the store.
    #[error("too many reads are waiting for the store")]
    Overloaded,
    /// The store did not answer.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

/// Where an answer may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// From memory, or from a read that another caller began.
    Default,
    /// From a read of the store that begins after the call did.
    Strong,
}

/// A record that was admitted, and the database's time to judge it by.
#[derive(Debug)]
pub struct Admitted<R> {
    /// The record.
    pub entry: Arc<Entry<R>>,
    /// The database's time at the admission.
    pub at: Timestamp,
}

/// Looks records of one kind up.
pub struct Lookup<R> {
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    l1: L1<R>,
    flights: SingleFlight<R>,
    metrics: CacheMetrics,
}

impl<R: Fenced> Lookup<R> {
    /// Looks up in memory, and behind it through `flights`.
    pub fn new(
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        l1: L1<R>,
        flights: SingleFlight<R>,
        metrics: CacheMetrics,
    ) -> Self {
        Self {
            fence,
            clock,
            l1,
            flights,
            metrics,
        }
    }

    /// The record behind `digest`, admitted; `None` when the store has none. Does not wait for
    /// anything when the answer is in memory.
    pub async fn find(
        &self,
        digest: &Digest,
        consistency: Consistency,
    ) -> Result<Option<Admitted<R>>, LookupError> {
        if consistency == Consistency::Default {
            // I4: the snapshot comes before the entry.
            let snapshot = self.fence.snapshot();
            if let Some(entry) = self.l1.get(digest) {
                match self.admit(&snapshot, entry) {
                    Ok(admitted) => {
                        self.metrics.hit.inc();
                        return Ok(Some(admitted));
                    }
                    Err(Refused::NotFresh) => return Err(LookupError::NotFresh),
                    Err(Refused::Superseded) => self.metrics.refused.inc(),
                };
            } else {
                self.metrics.miss.inc();
            }
        }
        for again in 0..=READ_AGAIN {
            let source = match (consistency, again) {
                (Consistency::Default, 0) => Source::Nearest,
                // What was refused the store must tell.
                (Consistency::Default, _) => Source::Store,
                (Consistency::Strong, _) => Source::StoreAlone,
            };
            match self.read(digest, source).await? {
                Ok(found) => return Ok(found),
                Err(Refused::NotFresh) => return Err(LookupError::NotFresh),
                Err(Refused::Superseded) => self.metrics.refused.inc(),
            };
        }
        Err(LookupError::NotFresh)
    }

    /// One read behind the memory. The read may be shared; whether it is admitted each caller
    /// decides for itself, by the snapshot it took before.
    async fn read(
        &self,
        digest: &Digest,
        source: Source,
    ) -> Result<Result<Option<Admitted<R>>, Refused>, LookupError> {
        let snapshot = self.fence.snapshot();
        if !snapshot.is_fresh(Now::read(&*self.clock)) {
            return Ok(Err(Refused::NotFresh));
        }
        let found = self.flights.read(digest, source).await?;
        let Some(entry) = &found.record else {
            let admission = snapshot.admit_absence(found.stamp, Now::read(&*self.clock));
            return Ok(refused(admission).map_or(Ok(None), Err));
        };
        let admitted = self.admit(&snapshot, Arc::clone(entry));
        match &admitted {
            Ok(_) => self.l1.insert(*digest, Arc::clone(entry)),
            Err(Refused::Superseded) if found.shared => self.flights.note_refused(),
            Err(_) => {}
        }
        Ok(admitted.map(Some))
    }

    fn admit(&self, snapshot: &Snapshot<'_>, entry: Arc<Entry<R>>) -> Result<Admitted<R>, Refused> {
        let now = Now::read(&*self.clock);
        match snapshot.admit(entry.record().id(), entry.stamp(), now) {
            Admission::Admitted { restamp } => {
                // I2: a later `applied` at which it was admitted, so that pruning does not chill
                // what is in use.
                entry.restamp(restamp);
                Ok(Admitted {
                    entry,
                    at: snapshot.database_time(now.boot),
                })
            }
            Admission::Superseded => Err(Refused::Superseded),
            Admission::NotFresh => Err(Refused::NotFresh),
        }
    }
}

/// Where a read behind the memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// To the cache that instances share, and where that has nothing to the store.
    Nearest,
    /// To the store.
    Store,
    /// To the store, by a read of one's own, which sees all that was committed before the call.
    StoreAlone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Superseded,
    NotFresh,
}

fn refused(admission: Admission) -> Option<Refused> {
    match admission {
        Admission::Admitted { .. } => None,
        Admission::Superseded => Some(Refused::Superseded),
        Admission::NotFresh => Some(Refused::NotFresh),
    }
}

impl<R> std::fmt::Debug for Lookup<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}

/// A read as callers share it.
#[derive(Debug)]
pub struct Fetched<R> {
    /// The record with its stamp, if there is one.
    pub record: Option<Arc<Entry<R>>>,
    /// How recent the answer is, also when there is none.
    pub stamp: Stamp,
    /// Whether it came from the cache that instances share.
    pub shared: bool,
}

impl<R: Fenced> From<Found<R>> for Fetched<R> {
    fn from(found: Found<R>) -> Self {
        let stamp = found.stamp;
        Self {
            record: found
                .record
                .map(|record| Arc::new(Entry::new(record, stamp))),
            stamp,
            shared: false,
        }
    }
}
