//! Metrics that belong together, each group with what registers it.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::{Catalogue, histogram};
use super::{One, Two};

type Unsigned = Gauge<u64, AtomicU64>;

/// What one cache does.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    /// An entry was found and admitted.
    pub hit: Counter,
    /// There was no entry.
    pub miss: Counter,
    /// There was an entry, and it was not admitted.
    pub refused: Counter,
}

/// What the cache does that instances share.
#[derive(Clone, Debug)]
pub struct L2Metrics {
    /// An entry was found; whether it is admitted is another matter.
    pub hit: Counter,
    /// There was no entry.
    pub miss: Counter,
    /// There was an entry, and it was not admitted.
    pub refused: Counter,
    /// What stood there was not made by a holder of the cache key.
    pub bad: Counter,
    /// A holder of the cache key made it, and it cannot be read.
    pub unreadable: Counter,
    /// It was not answered in time, or not with an answer.
    pub failed: Counter,
    /// It was not asked: there is no connection that answers.
    pub skipped: Counter,
    /// An entry was written.
    pub written: Counter,
    /// An entry was not written.
    pub dropped: Counter,
    /// A hint of another instance.
    pub hints_news: Counter,
    /// A hint of this instance.
    pub hints_own: Counter,
    /// A hint that was heard before.
    pub hints_repeated: Counter,
    /// A message that no holder of the cache key made.
    pub hints_forged: Counter,
    /// Hints may have been lost.
    pub hints_lost: Counter,
    /// 0 while calls are let through, 1 while a connection is tried, 2 while there is none.
    pub breaker: Gauge,
}

/// The listener's TLS.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    /// A client and this service have shaken hands.
    pub done: Counter,
    /// They could not agree, or the client went away.
    pub failed: Counter,
    /// The client took too long.
    pub timed_out: Counter,
    /// There were too many that did not come to their end, and this was the oldest.
    pub displaced: Counter,
    /// When the certificate in use ends, in seconds since the Unix epoch; 0 without TLS.
    pub expire_time: Gauge,
}

/// Keys that were refused without any I/O.
#[derive(Clone, Debug)]
pub struct GarbageMetrics {
    /// Prefix, digits or checksum were wrong.
    pub malformed: Counter,
    /// The keyed tag was wrong.
    pub tag: Counter,
}

/// How changes that must hold everywhere ended.
#[derive(Clone, Debug)]
pub struct RevokeMetrics {
    /// Every instance confirmed.
    pub confirmed: Counter,
    /// At least one instance was waited out.
    pub waited_out: Counter,
    /// It could not be proven in time.
    pub failed: Counter,
    /// Seconds from the commit to the proof.
    pub wait: Histogram,
}

/// How heartbeats of the tail ended.
#[derive(Clone, Debug)]
pub struct HeartbeatMetrics {
    /// Freshness was published.
    pub fresh: Counter,
    /// The store answered, but freshness could not be published.
    pub not_fresh: Counter,
    /// The store did not answer.
    pub failed: Counter,
}

/// What this instance has to do with the others that share its store.
#[derive(Clone, Debug)]
pub struct MemberMetrics {
    /// It registered.
    pub registrations: Counter,
    /// It deleted the row of one that was silent for too long.
    pub reaped: Counter,
    /// It was told that something has changed.
    pub hints_changed: Counter,
    /// Hints may have been lost.
    pub hints_lost: Counter,
    /// Rows of instances, as it saw them last.
    pub instances: Unsigned,
}

/// What the fence knows.
#[derive(Clone, Debug)]
pub struct FenceMetrics {
    /// 1 while this instance is fresh enough to answer, otherwise 0.
    pub fresh: Gauge,
    /// Age of the proven freshness, in seconds; -1 when there is none.
    pub freshness_age: Gauge<f64, AtomicU64>,
    /// The revision up to which this instance has applied the log.
    pub applied_revision: Unsigned,
    /// Tombstones held in memory.
    pub tombstones: Unsigned,
    /// The revision below which no cached entry is admitted.
    pub floor_revision: Unsigned,
}

impl CacheMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Family<Two, Counter> {
        c.counters(
            "keyward_cache",
            "cache, outcome",
            "Snapshot-ups in the caches of `key` and `token`: `hit`, `miss`, or `refused`, when an \
             entry was not admitted",
        )
    }

    pub(super) fn of(family: &Family<Two, Counter>, cache: &'static str) -> Self {
        let outcome = |value| family.get_or_create_owned(&[("cache", cache), ("outcome", value)]);
        Self {
            hit: outcome("hit"),
            miss: outcome("miss"),
            refused: outcome("refused"),
        }
    }
}

impl L2Metrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let reads: Family<One, Counter> = c.counters(
            "keyward_l2",
            "outcome",
            "Snapshot-ups in Redis: `hit`, `miss`, `refused` (there was an entry, and it was not \
             admitted; it counts as `hit`, too), `bad_mac` (somebody else wrote there), \
             `unreadable` (another version wrote there), `failed` (no answer in time), `skipped` (Redis is away)",
        );
        let writes: Family<One, Counter> = c.counters(
            "keyward_l2_writes",
            "outcome",
            "Entries for Redis: `written` or `dropped`",
        );
        let hints: Family<One, Counter> = c.counters(
            "keyward_l2_hints",
            "kind",
            "Hints by Redis: `news` from another instance, `own`, `repeated` or `forged` by somebody \
             else, `lost` when some may not have come",
        );
        let read = |value| reads.get_or_create_owned(&[("outcome", value)]);
        let write = |value| writes.get_or_create_owned(&[("outcome", value)]);
        let hint = |value| hints.get_or_create_owned(&[("kind", value)]);
        Self {
            hit: read("hit"),
            miss: read("miss"),
            refused: read("refused"),
            bad: read("bad_mac"),
            unreadable: read("unreadable"),
            failed: read("failed"),
            skipped: read("skipped"),
            written: write("written"),
            dropped: write("dropped"),
            hints_news: hint("news"),
            hints_own: hint("own"),
            hints_repeated: hint("repeated"),
            hints_forged: hint("forged"),
            hints_lost: hint("lost"),
            breaker: c.gauge(
                "keyward_l2_breaker",
                "The breaker before Redis: 0 closed (calls are let through), 1 half-open (a \
                 connection is tried), 2 open; 0 without Redis, too",
            ),
        }
    }
}

impl TlsMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let family: Family<One, Counter> = c.counters(
            "keyward_tls_handshakes",
            "outcome",
            "TLS handshakes: `done`, `failed`, `timed_out` (the client took longer than 10 s), \
             `displaced` (there were too many unfinished ones)",
        );
        let outcome = |value| family.get_or_create_owned(&[("outcome", value)]);
        Self {
            done: outcome("done"),
            failed: outcome("failed"),
            timed_out: outcome("timed_out"),
            displaced: outcome("displaced"),
            expire_time: c.gauge(
                "keyward_tls_certificate_expire_time_seconds",
                "When the certificate of the gRPC service ends, in seconds since 1970; 0 without TLS",
            ),
        }
    }
}

impl GarbageMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let family: Family<One, Counter> = c.counters(
            "keyward_verify_garbage",
            "kind",
            "Keys refused without any I/O: `malformed` text, or a wrong `tag`",
        );
        let kind = |value| family.get_or_create_owned(&[("kind", value)]);
        Self {
            malformed: kind("malformed"),
            tag: kind("tag"),
        }
    }
}

impl RevokeMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let family: Family<One, Counter> = c.counters(
            "keyward_revoke",
            "outcome",
            "Changes that must hold everywhere: `confirmed` by all, `waited_out`, or `failed` to \
             be proven in time",
        );
        let wait = c.add(
            "keyward_revoke_wait",
            "histogram",
            "",
            "Time from the commit of a change until it was proven to hold everywhere",
            histogram(),
        );
        let outcome = |value| family.get_or_create_owned(&[("outcome", value)]);
        Self {
            confirmed: outcome("confirmed"),
            waited_out: outcome("waited_out"),
            failed: outcome("failed"),
            wait,
        }
    }
}

impl HeartbeatMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let family: Family<One, Counter> = c.counters(
            "keyward_tail_beats",
            "outcome",
            "Beats of the tail: `fresh`, `not_fresh` (answered, but proves no freshness), `failed`",
        );
        let outcome = |value| family.get_or_create_owned(&[("outcome", value)]);
        Self {
            fresh: outcome("fresh"),
            not_fresh: outcome("not_fresh"),
            failed: outcome("failed"),
        }
    }
}

impl MemberMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let hints: Family<One, Counter> = c.counters(
            "keyward_hints",
            "kind",
            "Hints from other instances: `changed`, or `lost` when some may not have come",
        );
        let hint = |value| hints.get_or_create_owned(&[("kind", value)]);
        Self {
            registrations: c.counter(
                "keyward_registrations",
                "Rows that this instance has registered; more than one says that it was reaped or \
                 that a beat hung",
            ),
            reaped: c.counter(
                "keyward_reaped",
                "Rows of silent instances that this one has deleted",
            ),
            hints_changed: hint("changed"),
            hints_lost: hint("lost"),
            instances: c.gauge(
                "keyward_instances",
                "Instances that share the store, as this one saw them last; 0 on the embedded store",
            ),
        }
    }
}

impl FenceMetrics {
    pub(super) fn register(c: &mut Catalogue) -> Self {
        let freshness_age: Gauge<f64, AtomicU64> = c.add(
            "keyward_freshness_age",
            "gauge",
            "",
            "Age of the proven freshness; -1 before the first proof",
            Gauge::default(),
        );
        freshness_age.set(-1.0);
        Self {
            fresh: c.gauge(
                "keyward_fresh",
                "1 while this instance may answer from memory, else 0",
            ),
            freshness_age,
            applied_revision: c.gauge(
                "keyward_applied_revision",
                "The revision up to which the log is applied",
            ),
            tombstones: c.gauge("keyward_tombstones", "Tombstones held in memory"),
            floor_revision: c.gauge(
                "keyward_floor_revision",
                "The revision below which no cached entry is admitted",
            ),
        }
    }
}
