//! A near-cache: verifies known keys in this process, without a call, and still never calls a key valid once
//! its Revoke has returned.
//!
//! ```no_run
//! # use keyward_client::{Client, VerifyRequest, near::NearCacheOptions};
//! # async fn example(client: Client, request: VerifyRequest) -> Result<(), Box<dyn std::error::Error>> {
//! let near = client.near_cache(NearCacheOptions::default())?;
//! let verdict = near.verify(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! An instance keeps the near-cache fresh by a stream, and a Revoke waits until each near-cache knows of it,
//! or can no longer be fresh. The near-cache answers only VALID by itself, and reports with
//! its polls which keys were used. Every other verdict, a key that it
//! does not know, and [`Consistency::Strong`] take a call; so does everything while it is not fresh
//! ([`Fallback`]).
//!
//! **Do not** snapshot and restore a process that has one, or fork it without exec: two processes would then
//! share one acknowledgement. The token needs the roles `near_cache` and `verifier`.
//!
//! The decisions are those of the service itself: the fence and the judgement of `keyward-core`.

mod entries;
mod stream;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use keyward_clock::SystemClock;
use keyward_core::fence::{Admission, Ask, Epoch, Fence, Now, judge};
use keyward_core::key::{KeyId, Scopes, Verdict as Judged};
use keyward_proto::v1;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Client, Consistency, Error, Identity, Verdict, VerifyRequest};
use entries::{Entries, Entry, Names};

/// The most keys whose use waits for a poll. Others are reported after their next use.
const MOST_UNREPORTED: usize = 20_000;

/// How a near-cache is set up.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NearCacheOptions {
    /// The most bytes that it takes for keys, about. 64 MiB by default, for some 100,000 keys.
    pub max_bytes: u64,
    /// What happens while it is not fresh.
    pub fallback: Fallback,
}

impl Default for NearCacheOptions {
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            fallback: Fallback::Call,
        }
    }
}

/// What a near-cache does while it is not fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It verifies by calls.
    #[default]
    Call,
    /// It fails with [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable), for callers that must not
    /// wait.
    Fail,
}

/// The numbers of a near-cache, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NearCacheStats {
    /// Answers without a call.
    pub hits: u64,
    /// Calls for keys that it did not know, or that are not valid.
    pub misses: u64,
    /// Calls, or failures, because it was not fresh.
    pub not_fresh: u64,
    /// How often it lost all keys, because it had missed too many changes or the log is another one.
    pub resets: u64,
    /// The keys that it holds.
    pub keys: u64,
    /// For how long it is fresh without news.
    pub fresh_for: Option<std::time::Duration>,
}

/// A near-cache. Cheap to clone; the clones share it. It ends when the last one is dropped; see also
/// [`Self::close`].
#[derive(Clone)]
pub struct NearCache {
    shared: Arc<Shared>,
    /// Ends the stream when the last clone is dropped.
    _open: Arc<tokio_util::sync::DropGuard>,
    ended: watch::Receiver<()>,
}

/// What callers and the stream share.
struct Shared {
    client: Client,
    fallback: Fallback,
    max_bytes: u64,
    names: Names,
    clock: SystemClock,
    /// What is known of one epoch, as one object: a running Verify keeps the one whose freshness it read.
    state: ArcSwap<State>,
    closing: CancellationToken,
    counts: Counts,
    /// The keys whose use is to be reported with the next polls.
    used: Mutex<VecDeque<KeyId>>,
    /// Why the last stream failed.
    trouble: Mutex<Option<Error>>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    not_fresh: AtomicU64,
    resets: AtomicU64,
}

/// The fence of one epoch, and the entries that it admits.
struct State {
    fence: Fence,
    entries: Entries,
}

/// A near-cache cannot be made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NearCacheError {
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    NoRandomness,
    /// The stream needs a tokio runtime, and none runs.
    #[error("no tokio runtime: make the near-cache inside one")]
    NoRuntime,
}

impl Client {
    /// Makes a near-cache, which connects in the background.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime, or no randomness.
    pub fn near_cache(&self, options: NearCacheOptions) -> Result<NearCache, NearCacheError> {
        let runtime = tokio::runtime::Handle::try_current();
        let runtime = runtime.map_err(|_| NearCacheError::NoRuntime)?;
        let mut random = [0; 64];
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing is injected into a caller's process"
        )]
        getrandom::fill(&mut random).map_err(|_| NearCacheError::NoRandomness)?;
        let closing = CancellationToken::new();
        let shared = Arc::new(Shared {
            client: self.clone(),
            fallback: options.fallback,
            max_bytes: options.max_bytes,
            names: Names::new(&random),
            clock: SystemClock,
            state: ArcSwap::from_pointee(State::new(Epoch::NONE, options.max_bytes)),
            closing: closing.clone(),
            counts: Counts::default(),
            used: Mutex::default(),
            trouble: Mutex::default(),
        });
        let (ending, ended) = watch::channel(());
        let running = Arc::clone(&shared);
        runtime.spawn(async move {
            stream::run(&running).await;
            drop(ending);
        });
        Ok(NearCache {
            shared,
            _open: Arc::new(closing.drop_guard()),
            ended,
        })
    }
}

impl NearCache {
    /// Checks whether a key may be used now, as [`Client::verify`] does.
    ///
    /// # Errors
    ///
    /// Those of [`Client::verify`]; and `Unavailable` while the near-cache is not fresh, with
    /// [`Fallback::Fail`].
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verdict, Error> {
        if let Some(identity) = self.cached(&request) {
            return Ok(Verdict::Valid(identity));
        }
        self.note_unanswered(1)?;
        self.shared.call(&request).await
    }

    /// Checks at most 256 keys, as [`Self::verify`] does: one verdict each, in order. The keys that it cannot
    /// answer take one call together.
    ///
    /// # Errors
    ///
    /// Those of [`Self::verify`], for all keys together.
    pub async fn verify_batch(&self, requests: Vec<VerifyRequest>) -> Result<Vec<Verdict>, Error> {
        let cached = |request| self.cached(request).map(Verdict::Valid);
        let mut verdicts: Vec<_> = requests.iter().map(cached).collect();
        let unanswered: Vec<_> = requests
            .into_iter()
            .zip(&verdicts)
            .filter_map(|(request, verdict)| verdict.is_none().then_some(request))
            .collect();
        if !unanswered.is_empty() {
            self.note_unanswered(unanswered.len() as u64)?;
            let mut called = self.shared.call_batch(&unanswered).await?.into_iter();
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
                *verdict = called.next();
            }
        }
        Ok(verdicts.into_iter().flatten().collect())
    }

    /// Counts keys that need a call.
    fn note_unanswered(&self, keys: u64) -> Result<(), Error> {
        let counts = &self.shared.counts;
        if self.is_fresh() {
            counts.misses.fetch_add(keys, Relaxed);
            return Ok(());
        }
        counts.not_fresh.fetch_add(keys, Relaxed);
        match self.shared.fallback {
            Fallback::Call => Ok(()),
            Fallback::Fail => Err(Error::unavailable("the near-cache is not fresh")),
        }
    }

    /// The identity of a key that is known and valid now, without a call. `None` says nothing.
    pub fn cached(&self, request: &VerifyRequest) -> Option<Identity> {
        if request.consistency != Consistency::Default {
            return None;
        }
        let shared = &*self.shared;
        let identity = shared.admit(request)?;
        shared.counts.hits.fetch_add(1, Relaxed);
        Some(identity)
    }

    /// Whether it can answer by itself now: a health probe for callers that use [`Fallback::Fail`].
    pub fn is_fresh(&self) -> bool {
        let now = Now::read(&self.shared.clock);
        self.shared.state.load().fence.is_fresh(now)
    }

    /// Why its last stream failed, until it is fresh again.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.trouble.lock().clone()
    }

    /// Its numbers.
    pub fn stats(&self) -> NearCacheStats {
        let (counts, state) = (&self.shared.counts, self.shared.state.load());
        let read = |count: &AtomicU64| count.load(Relaxed);
        NearCacheStats {
            hits: read(&counts.hits),
            misses: read(&counts.misses),
            not_fresh: read(&counts.not_fresh),
            resets: read(&counts.resets),
            keys: state.entries.len().try_into().unwrap_or(u64::MAX),
            fresh_for: state.fence.fresh_for(Now::read(&self.shared.clock)),
        }
    }

    /// Ends its freshness, tells its instance so, and waits for that. Otherwise, if the process ends, a
    /// Revoke may have to wait until the near-cache cannot be fresh any more: some seconds. Afterwards it
    /// behaves as if it were not fresh.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        // The sender is dropped at the end.
        let _ = self.ended.clone().changed().await;
    }
}

impl fmt::Debug for NearCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearCache")
            .field("client", &self.shared.client)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// The identity of the key, if this process can prove that it is valid now.
    fn admit(&self, request: &VerifyRequest) -> Option<Identity> {
        let name = self.names.of(&request.api_key);
        let state = self.state.load();
        // I4: freshness is read before the entry.
        let snapshot = state.fence.snapshot();
        let entry = state.entries.get(&name)?;
        let now = Now::read(&self.clock);
        if !matches!(
            snapshot.admit(&entry.ids, entry.stamp, now),
            Admission::Admitted { .. }
        ) {
            return None;
        }
        let ask = Ask {
            scopes: match request.required_scopes.is_empty() {
                true => Scopes::default(),
                // The instance says what is wrong with them.
                false => Scopes::new("required_scopes", request.required_scopes.clone()).ok()?,
            },
            client: request.client_ip,
        };
        let verdict = judge(&entry.terms, &ask, snapshot.database_time(now.boot));
        if verdict != Judged::Valid {
            return None;
        }
        entry.report(now.boot, |id| {
            let mut used = self.used.lock();
            let has_place = used.len() < MOST_UNREPORTED;
            if has_place {
                used.push_back(id);
            }
            has_place
        });
        Some(entry.identity.clone())
    }

    /// Verifies by a call, and keeps the key if it is valid.
    async fn call(&self, request: &VerifyRequest) -> Result<Verdict, Error> {
        let sent_at = Now::read(&self.clock);
        let response = self.client.call(request.to_wire(true)).await?;
        self.keep(request, response, sent_at)
    }

    /// Verifies several keys by one call, and keeps those that are valid.
    async fn call_batch(&self, requests: &[VerifyRequest]) -> Result<Vec<Verdict>, Error> {
        let sent_at = Now::read(&self.clock);
        let responses = self.client.call_batch(requests, true).await?;
        let answered = requests.iter().zip(responses);
        let kept = answered.map(|(request, response)| self.keep(request, response, sent_at));
        kept.collect()
    }

    /// Keeps the key if it is valid. The call was sent at `sent_at`.
    fn keep(
        &self,
        request: &VerifyRequest,
        mut response: v1::VerifyResponse,
        sent_at: Now,
    ) -> Result<Verdict, Error> {
        let entry = response.cache_entry.take();
        let verdict = Verdict::try_from(response)?;
        if let (Verdict::Valid(identity), Some(entry)) = (&verdict, entry) {
            let store_time = entry.store_time.map(entries::timestamp);
            let state = self.state.load();
            if let Some(entry) = Entry::new(entry, identity)
                && let Some(store_time) = store_time
            {
                state.fence.note_time(store_time, sent_at.boot);
                state.entries.insert(self.names.of(&request.api_key), entry);
            }
        }
        Ok(verdict)
    }
}

impl State {
    /// Knows nothing of `epoch`.
    fn new(epoch: Epoch, max_bytes: u64) -> Self {
        Self {
            fence: Fence::near(epoch),
            entries: Entries::new(max_bytes),
        }
    }
}
