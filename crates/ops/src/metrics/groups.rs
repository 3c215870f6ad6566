//! The metrics of the service in groups. Each group is one declaration: its counters by the value of
//! a label, then its other metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::catalogue::{Catalogue, One, Two};

type Unsigned = Gauge<u64, AtomicU64>;

macro_rules! groups {
    ($(
        $(#[$doc:meta])*
        $group:ident {
            $(counters $family:literal by $label:literal, $help:literal {
                $($(#[$counter_doc:meta])* $counter:ident = $value:literal,)+
            })*
            $($(#[$metric_doc:meta])* metric $metric:ident: $kind:ty = $name:literal, $metric_help:literal;)*
        }
    )+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $group {
            $($($(#[$counter_doc])* pub $counter: Counter,)+)*
            $($(#[$metric_doc])* pub $metric: $kind,)*
        }

        impl $group {
            pub(super) fn register(catalogue: &mut Catalogue) -> Self {
                $(
                    let family: Family<One, Counter> = catalogue.counters($family, $label, $help);
                    $(let $counter = family.get_or_create_owned(&[($label, $value)]);)+
                )*
                Self {
                    $($($counter,)+)*
                    $($metric: catalogue.metric($name, $metric_help),)*
                }
            }
        }
    )+};
}

groups! {
    /// Keys that are refused without I/O.
    GarbageMetrics {
        counters "keyward_verify_garbage" by "kind",
            "Keys refused without I/O: `malformed` text, or a wrong `tag`" {
            /// The prefix, the digits or the checksum is wrong.
            malformed = "malformed",
            /// The tag is wrong.
            tag = "tag",
        }
    }

    /// Secrets of recoverable keys that callers see again.
    RevealMetrics {
        counters "keyward_reveals" by "outcome",
            "Secrets of existing recoverable keys: `shown` again to a `revealer`, or `refused` because the \
             caller has seen more than `max_reveals_per_minute`" {
            /// The caller sees the secret.
            shown = "shown",
            /// The caller has seen too many.
            refused = "refused",
        }
    }

    /// The callers.
    CallerMetrics {
        /// End of the last token of the caller that is refused first, in seconds since the Unix epoch; 0 without one.
        metric token_expire_time: Gauge = "keyward_caller_token_expire_time_seconds",
            "End of the last token of the caller whose tokens expire first, in seconds since 1970; 0 if none \
             expires. Tokens made for 14 days or less do not count";
    }

    /// The keyring.
    KeyringMetrics {
        /// Sealed copies moved to the active sealing key.
        metric seals_moved: Counter = "keyward_seals_moved",
            "Sealed copies that this instance has moved to the active sealing key";
    }

    /// The seals of the audit.
    AuditMetrics {
        counters "keyward_audit_sealing" by "outcome",
            "Each minute's sealing of the audit: `done` by this instance or another, without an audit key \
             (`no_key`), or `failed`" {
            /// The store has sealed what was due.
            done = "done",
            /// No audit key is active, or this instance does not have it.
            no_key = "no_key",
            /// The store failed.
            failed = "failed",
        }
    }

    /// The fence's knowledge.
    FenceMetrics {
        /// Age of the proven freshness in seconds; -1 before the first proof.
        metric freshness_age: Gauge<f64, AtomicU64> = "keyward_freshness_age",
            "Age of the proven freshness; -1 before the first proof";
        /// 1 while this instance is fresh enough to answer, otherwise 0.
        metric fresh: Gauge = "keyward_fresh",
            "1 while this instance may answer from memory, otherwise 0";
        /// The revision up to which this instance has applied the log.
        metric applied_revision: Unsigned = "keyward_applied_revision",
            "The revision up to which this instance has applied the log";
        /// Tombstones in memory.
        metric tombstones: Unsigned = "keyward_tombstones", "Tombstones in memory";
        /// The floor of the fence.
        metric floor_revision: Unsigned = "keyward_floor_revision",
            "The revision below which the fence admits no cached entry";
        /// Seconds by which the stored time is ahead of the clock that it follows.
        metric store_time_ahead: Gauge<f64, AtomicU64> = "keyward_store_time_ahead",
            "Seconds by which the store's time is ahead of the clock of its server; keys expire too early";
    }

    /// Outcomes of changes that wait until they hold on every instance.
    RevokeMetrics {
        counters "keyward_revoke" by "outcome",
            "For changes that must hold on every instance: the instances that `confirmed` (applied the \
             change, left or were reaped), the instances that were `waited_out` until their bound had \
             passed, and the changes that `failed` to be proven in time" {
            /// Instances that applied the change, left or were reaped.
            confirmed = "confirmed",
            /// Instances that were unresponsive for their whole bound.
            waited_out = "waited_out",
            /// Changes without a proof in time.
            failed = "failed",
        }
        /// Seconds from the commit to the proof.
        metric wait: Histogram = "keyward_revoke_wait",
            "Time from the commit of a change to the proof that it holds on every instance";
    }

    /// The use of keys.
    UseMetrics {
        counters "keyward_key_uses" by "outcome",
            "Keys whose use was `written` to the store, and whose use was `dropped` because too much waited" {
            /// The use of a key was written.
            written = "written",
            /// There was no place to keep it.
            dropped = "dropped",
        }
        /// The age that a stored use may have, in seconds.
        metric resolution: Gauge<f64, AtomicU64> = "keyward_key_use_resolution_seconds",
            "The time within which the use of a key is written: `use_interval`, or a multiple of it while \
             more keys are in use than can be written in that time";
    }

    /// Heartbeats of the tail.
    HeartbeatMetrics {
        counters "keyward_tail_beats" by "outcome",
            "Heartbeats of the tail: `fresh`, `not_fresh` (the store answered, but the answer proves \
             no freshness), `failed`" {
            /// The heartbeat proved freshness.
            fresh = "fresh",
            /// The store answered, but the answer proves no freshness.
            not_fresh = "not_fresh",
            /// The store did not answer.
            failed = "failed",
        }
    }

    /// The other instances on the store.
    MemberMetrics {
        counters "keyward_hints" by "kind",
            "Change notices from other instances: `changed`, or `lost` if some may be missing" {
            /// A notice that something changed.
            hints_changed = "changed",
            /// Some notices may be lost.
            hints_lost = "lost",
        }
        /// Registrations of this instance.
        metric registrations: Counter = "keyward_registrations",
            "Registrations of this instance; after the first, each means that it was reaped or that a \
             heartbeat hung";
        /// Rows of unresponsive instances that this one deleted.
        metric reaped: Counter = "keyward_reaped",
            "Rows of unresponsive instances that this one deleted";
        /// Instances in the last membership that this one read.
        metric instances: Unsigned = "keyward_instances",
            "Instances on the store in the last membership that this one read; 0 on the embedded store";
        /// Whether changes can be confirmed in the present epoch.
        metric settled: Unsigned = "keyward_epoch_settled",
            "1 if changes can be confirmed in the present epoch; 0 for about a minute after a failover \
             or `epoch advance`, and always on the embedded store";
    }

    /// The near-caches in callers' processes.
    NearMetrics {
        counters "keyward_near_cache_streams" by "end",
            "Streams of near-caches that have ended, or were not opened: `off` (the near-cache said so, or never polled), \
             `broken` (a Revoke may have waited for it), `refused`" {
            /// The near-cache said that it is off.
            off = "off",
            /// The stream broke, or the near-cache was too slow.
            broken = "broken",
            /// The stream was not opened.
            refused = "refused",
        }
        /// The near-caches that this instance keeps fresh.
        metric open: Unsigned = "keyward_near_caches",
            "Near-caches that this instance keeps fresh";
        /// Seconds from an answer with changes to the poll that acknowledged it.
        metric acknowledged: Histogram = "keyward_near_cache_acknowledgement",
            "Time from telling a near-cache a change to its acknowledgement";
    }

    /// L2, the cache in Redis.
    L2Metrics {
        counters "keyward_l2" by "outcome",
            "Lookups in Redis: `hit`, `miss`, `refused` (an entry that the fence did not admit; it also \
             counts as `hit`), `bad_mac` (written without the cache key), `unreadable` (written by \
             another version), `failed` (no answer in time), `skipped` (Redis is unreachable)" {
            /// Redis had an entry, admitted or not.
            hit = "hit",
            /// Redis had no entry.
            miss = "miss",
            /// Redis had an entry, and the fence did not admit it.
            refused = "refused",
            /// The entry was written without the cache key.
            bad = "bad_mac",
            /// The entry was written with the cache key but cannot be decoded.
            unreadable = "unreadable",
            /// Redis gave no valid answer in time.
            failed = "failed",
            /// Redis was not asked, because no connection works.
            skipped = "skipped",
        }
        counters "keyward_l2_writes" by "outcome", "Entries for Redis: `written` or `dropped`" {
            /// Redis took the entry.
            written = "written",
            /// The entry was dropped.
            dropped = "dropped",
        }
        counters "keyward_l2_hints" by "kind",
            "Change notices through Redis: `news` from another instance, `own`, `repeated` or `forged` \
             by another program, `lost` if some may be missing" {
            /// A notice of another instance.
            hints_news = "news",
            /// A notice of this instance.
            hints_own = "own",
            /// A notice that arrived before.
            hints_repeated = "repeated",
            /// A message that was made without the cache key.
            hints_forged = "forged",
            /// Some notices may be lost.
            hints_lost = "lost",
        }
        /// 0 while the breaker is closed, 1 while it is half-open, 2 while it is open.
        metric breaker: Gauge = "keyward_l2_breaker",
            "The breaker before Redis: 0 closed (calls pass), 1 half-open (one connection is tried), 2 \
             open (no calls); 0 without Redis";
    }

    /// The limits of the gRPC port.
    LimitMetrics {
        counters "keyward_connections_closed" by "cause",
            "Connections closed at a limit: `refused` (all connections belonged to callers), `displaced` (a new \
             connection took the place of the oldest one without a valid caller), `stalled` (the \
             client did not read its responses)" {
            /// Callers had all places.
            connections_refused = "refused",
            /// The oldest stranger made room for a new connection.
            connections_displaced = "displaced",
            /// The client did not read its responses.
            connections_stalled = "stalled",
        }
    }

    /// The listener's TLS.
    TlsMetrics {
        counters "keyward_tls_handshakes" by "outcome",
            "TLS handshakes: `done`, `failed`, `timed_out` (the client took longer than 10 s), \
             `displaced` (too many were unfinished, and this one was the oldest)" {
            /// The handshake succeeded.
            done = "done",
            /// The two sides did not agree, or the client left.
            failed = "failed",
            /// The client took too long.
            timed_out = "timed_out",
            /// Too many handshakes were unfinished, and this one was the oldest.
            displaced = "displaced",
        }
        /// End of the certificate in use, in seconds since the Unix epoch; 0 without TLS.
        metric expire_time: Gauge = "keyward_tls_certificate_expire_time_seconds",
            "End of the certificate of the gRPC service, in seconds since 1970; 0 without TLS";
    }
}

/// Lookups in one cache in memory.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    /// The cache had an entry, and the fence admitted it.
    pub hit: Counter,
    /// The cache had no entry.
    pub miss: Counter,
    /// The cache had an entry, and the fence did not admit it.
    pub refused: Counter,
}

impl CacheMetrics {
    pub(super) fn register(catalogue: &mut Catalogue) -> [Self; 3] {
        let family: Family<Two, Counter> = catalogue.counters(
            "keyward_cache",
            "cache, outcome",
            "Lookups in the caches `key`, `token` and `foreign` (keys of another product): `hit`, `miss`, or \
             `refused` (an entry that the fence did not admit)",
        );
        ["key", "token", "foreign"].map(|cache| {
            let count = |value| family.get_or_create_owned(&[("cache", cache), ("outcome", value)]);
            Self {
                hit: count("hit"),
                miss: count("miss"),
                refused: count("refused"),
            }
        })
    }
}

/// What is sent to webhooks, by their names.
#[derive(Clone, Debug)]
pub struct WebhooksMetrics {
    attempts: Family<[(&'static str, String); 2], Counter>,
    gauges: [Family<[(&'static str, String); 1], Gauge>; 4],
}

impl WebhooksMetrics {
    pub(super) fn register(catalogue: &mut Catalogue) -> Self {
        Self {
            attempts: catalogue.counters(
                "keyward_webhook_attempts",
                "webhook, outcome",
                "Attempts of this instance to send an event to a webhook: `delivered`, `failed` (another \
                 attempt follows), `dead` (the last one failed)",
            ),
            gauges: [
                (
                    "keyward_webhook_waiting",
                    "Events in the store that wait for a webhook",
                ),
                (
                    "keyward_webhook_oldest_age",
                    "Age of the oldest event that waits for a webhook; 0 if none waits",
                ),
                (
                    "keyward_webhook_dead",
                    "Dead events of a webhook in the store; they are kept for a week",
                ),
                (
                    "keyward_webhook_gone",
                    "1 if the receiver has answered 410, so that nothing is sent until a replay, otherwise 0",
                ),
            ]
            .map(|(name, help)| catalogue.gauges(name, "webhook", help)),
        }
    }

    /// The handles of one webhook.
    pub fn webhook(&self, name: &str) -> WebhookMetrics {
        let label = || [("webhook", name.to_owned())];
        let count = |outcome: &str| {
            let [webhook] = label();
            let labels = [webhook, ("outcome", outcome.to_owned())];
            self.attempts.get_or_create_owned(&labels)
        };
        let [waiting, oldest_age, dead, gone] = self
            .gauges
            .each_ref()
            .map(|family| family.get_or_create_owned(&label()));
        WebhookMetrics {
            delivered: count("delivered"),
            failed: count("failed"),
            died: count("dead"),
            waiting,
            oldest_age,
            dead,
            gone,
        }
    }
}

/// What is sent to one webhook.
#[derive(Clone, Debug)]
pub struct WebhookMetrics {
    /// Attempts that succeeded.
    pub delivered: Counter,
    /// Attempts that failed, and after which others follow.
    pub failed: Counter,
    /// Last attempts that failed.
    pub died: Counter,
    /// Events that wait.
    pub waiting: Gauge,
    /// The age of the oldest one, in seconds.
    pub oldest_age: Gauge,
    /// Dead events.
    pub dead: Gauge,
    /// Whether the receiver is gone.
    pub gone: Gauge,
}
