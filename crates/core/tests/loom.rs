//! The hand-over of the fence's state between threads, in every order of their steps: one thread applies
//! the log, others verify. Run by `make loom`; an ordinary build has no test here.
//!
//! The test plays the callers of the fence: a tail that absorbs pages, a verification in the order of
//! `src/cache` (snapshot, entry, admission, new stamp), a change that returns when it has seen `applied`.
#![cfg(loom)]

use std::time::Duration;

use keyward_core::fence::{
    Absorbed, Admission, Change, Epoch, Fence, MAX_BEHIND, Mark, Now, Page, SharedStamp, Snapshot,
    Stamp, Start,
};
use keyward_core::key::{BootTime, KeyId, Timestamp};
use loom::sync::{Arc, Mutex};
use loom::thread;

const KEY: KeyId = KeyId::from_bytes([1; 16]);
const OTHER: KeyId = KeyId::from_bytes([2; 16]);
const MAX_STALENESS: Duration = Duration::from_secs(2);
const FIRST: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};
const ADVANCED: Epoch = Epoch {
    incarnation: 2,
    ..FIRST
};

/// The tail sends a first heartbeat at 0 s and another one at 2 s.
const START: i64 = 0;
const SECOND_HEARTBEAT: i64 = 2;
/// A verification is fresh by the first heartbeat.
const EARLY: i64 = 1;
/// A verification is fresh only by the second heartbeat.
const LATE: i64 = 3;

fn at(seconds: i64) -> Now {
    Now {
        boot: BootTime::from_micros(seconds * 1_000_000),
        wall: Timestamp::from_micros(seconds * 1_000_000),
    }
}

/// The mark of a revision. The log of each epoch has its own.
fn mark(epoch: Epoch, revision: u64) -> Mark {
    (revision * 10 + epoch.incarnation).to_be_bytes()
}

/// The rows after `after` in the log of `epoch`, one for each id.
fn page(epoch: Epoch, after: u64, ids: &[KeyId]) -> Page {
    let rows: Vec<_> = (after + 1..)
        .zip(ids)
        .map(|(revision, id)| Change {
            revision,
            mark: mark(epoch, revision),
            id: *id,
        })
        .collect();
    let head = rows.last().map_or(after, |last| last.revision);
    Page {
        epoch,
        head,
        head_mark: mark(epoch, head),
        pruned_to: 0,
        mark_at_applied: Some(mark(epoch, after)),
        database_time: Timestamp::from_micros(0),
        rows,
    }
}

fn start(epoch: Epoch, revision: u64) -> Start {
    Start {
        epoch,
        floor: revision,
        applied: revision,
        mark: mark(epoch, revision),
        database_time: Timestamp::from_micros(0),
        taken_at: at(START).boot,
    }
}

/// A fence that is fresh since 0 s, with the log up to `ids` applied.
fn fresh_fence(max_tombstones: usize, ids: &[KeyId]) -> Arc<Fence> {
    let fence = Fence::new(MAX_STALENESS, max_tombstones, start(FIRST, 0));
    fence.absorb(at(START), &page(FIRST, 0, ids)).unwrap();
    Arc::new(fence)
}

/// An entry of `KEY` in a cache.
fn entry(revision: u64) -> Arc<SharedStamp> {
    Arc::new(SharedStamp::new(Stamp {
        epoch: FIRST,
        revision,
    }))
}

/// The end of a verification. Whether the entry was used.
fn admit(snapshot: &Snapshot<'_>, entry: &SharedStamp, seconds: i64) -> bool {
    let admission = snapshot.admit(&[KEY], entry.get(), at(seconds));
    if let Admission::Admitted { restamp } = admission {
        entry.raise(restamp);
    }
    matches!(admission, Admission::Admitted { .. })
}

fn verify(fence: &Fence, entry: &SharedStamp, seconds: i64) -> bool {
    let snapshot = fence.snapshot();
    admit(&snapshot, entry, seconds)
}

/// Runs `scenario` in every order, and prints in how many.
fn explore(name: &str, scenario: impl Fn() + Send + Sync + 'static) {
    let orders = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&orders);
    loom::model(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        scenario();
    });
    let orders = orders.load(std::sync::atomic::Ordering::Relaxed);
    println!("{name}: {orders} orders");
}

/// One thread verifies an older entry twice, while `tail` moves the fence past the revocation of `KEY`,
/// which is `revision`. It must not use the entry once it can know of the revocation, and no order may give
/// the entry a later stamp.
fn no_order_admits_the_revoked_key(
    name: &str,
    fence: impl Fn() -> Arc<Fence> + Send + Sync + 'static,
    revision: u64,
    tail: impl Fn(&Fence) + Copy + Send + Sync + 'static,
) {
    explore(name, move || {
        let (fence, entry) = (fence(), entry(0));
        let applying = thread::spawn({
            let fence = Arc::clone(&fence);
            move || tail(&fence)
        });
        // P2: Revoke has returned, because this instance has acknowledged it.
        let (epoch, applied) = fence.known();
        let has_returned = epoch == FIRST && applied >= revision;
        let is_used = verify(&fence, &entry, EARLY);
        assert!(!(has_returned && is_used), "P2: used after Revoke returned");
        // P1: freshness from after the commit covers the revocation.
        assert!(!verify(&fence, &entry, LATE), "P1: fresh but outdated");
        applying.join().unwrap();
        let stamp = entry.get().revision;
        assert!(stamp < revision, "I2: the stamp rose to {stamp}");
        assert!(!verify(&fence, &entry, EARLY));
    });
}

#[test]
fn a_page_is_handed_over_after_its_tombstones() {
    let fence = || fresh_fence(10, &[]);
    no_order_admits_the_revoked_key("page", fence, 1, |fence| {
        let page = page(FIRST, 0, &[KEY]);
        fence.absorb(at(SECOND_HEARTBEAT), &page).unwrap();
    });
}

#[test]
fn the_floor_is_handed_over_before_a_tombstone_is_pruned() {
    let fence = || fresh_fence(1, &[KEY]);
    no_order_admits_the_revoked_key("prune", fence, 1, |fence| {
        let page = page(FIRST, 1, &[OTHER]);
        fence.absorb(at(SECOND_HEARTBEAT), &page).unwrap();
        assert_eq!((fence.floor(), fence.tombstones()), (1, 1));
    });
}

#[test]
fn the_floor_is_handed_over_before_a_jump_clears_the_tombstones() {
    let fence = || fresh_fence(10, &[KEY]);
    no_order_admits_the_revoked_key("jump", fence, 1, |fence| {
        let head = MAX_BEHIND + 2;
        let page = Page {
            head,
            head_mark: mark(FIRST, head),
            ..page(FIRST, 1, &[])
        };
        let absorbed = fence.absorb(at(SECOND_HEARTBEAT), &page);
        assert_eq!((absorbed, fence.tombstones()), (Ok(Absorbed::Jumped), 0));
    });
}

/// A record is read from the store during the revocation, and put into the cache.
#[test]
fn a_record_read_during_the_revocation_is_not_used_after_it() {
    explore("read of the store", || {
        let fence = fresh_fence(10, &[]);
        // The head of the log. The key is live at 0.
        let head = Arc::new(Mutex::new(0));
        let revoking = thread::spawn({
            let (fence, head) = (Arc::clone(&fence), Arc::clone(&head));
            move || {
                *head.lock().unwrap() = 1;
                let page = page(FIRST, 0, &[KEY]);
                fence.absorb(at(SECOND_HEARTBEAT), &page).unwrap();
                // Revoke returns. The entry is one that another thread has put into the cache.
                assert!(!verify(&fence, &entry(0), EARLY));
            }
        });
        let snapshot = fence.snapshot();
        let has_returned = fence.applied() == 1;
        let read = *head.lock().unwrap();
        if read == 0 {
            let entry = entry(read);
            assert!(!(admit(&snapshot, &entry, EARLY) && has_returned));
            assert_eq!(entry.get().revision, 0);
            // The next verification finds it in the cache.
            assert!(!verify(&fence, &entry, LATE));
        }
        revoking.join().unwrap();
    });
}

/// The log lost its tail, and an operator has accepted that. The fence starts again with a lower floor.
#[test]
fn a_snapshot_from_before_a_restart_admits_nothing_after_it() {
    // The fence keeps no tombstones, so the floor refuses the entry; or it keeps them. The snapshot is from
    // before the restart, or from any time.
    for (max_tombstones, is_old) in [(0, true), (0, false), (10, true), (10, false)] {
        explore("restart", move || {
            let fence = fresh_fence(max_tombstones, &[OTHER, OTHER, KEY]);
            let old = is_old.then(|| fence.snapshot());
            let restarting = thread::spawn({
                let fence = Arc::clone(&fence);
                move || {
                    let lost = Page {
                        mark_at_applied: None,
                        ..page(FIRST, 3, &[])
                    };
                    fence.absorb(at(EARLY), &lost).unwrap_err();
                    fence.restart(start(ADVANCED, 1));
                    fence
                        .absorb(at(EARLY), &page(ADVANCED, 1, &[OTHER]))
                        .unwrap();
                }
            });
            // The record was read before the revocation at 3, and after the new floor.
            let snapshot = old.unwrap_or_else(|| fence.snapshot());
            assert!(!admit(&snapshot, &entry(2), EARLY));
            restarting.join().unwrap();
        });
    }
}

#[test]
fn nothing_is_used_after_freshness_was_given_up() {
    explore("leave", || {
        let (fence, row_is_gone) = (fresh_fence(10, &[]), Arc::new(Mutex::new(false)));
        let leaving = thread::spawn({
            let (fence, row_is_gone) = (Arc::clone(&fence), Arc::clone(&row_is_gone));
            move || {
                fence.stop_being_fresh();
                *row_is_gone.lock().unwrap() = true;
            }
        });
        let is_gone = *row_is_gone.lock().unwrap();
        assert!(!(verify(&fence, &entry(0), EARLY) && is_gone));
        leaving.join().unwrap();
        assert!(!verify(&fence, &entry(0), EARLY));
    });
}

/// An acknowledgement is a number and a mark of one row, and belongs to one epoch.
#[test]
fn an_acknowledgement_is_read_as_one() {
    explore("acknowledgement", || {
        let fence = fresh_fence(10, &[OTHER]);
        let promoted = Epoch {
            timeline: 2,
            ..FIRST
        };
        let absorbing = thread::spawn({
            let fence = Arc::clone(&fence);
            move || {
                let page = Page {
                    epoch: promoted,
                    ..page(FIRST, 1, &[KEY])
                };
                fence.absorb(at(SECOND_HEARTBEAT), &page).unwrap();
            }
        });
        let (epoch, position) = fence.position();
        assert_eq!(position.mark, mark(FIRST, position.revision));
        assert_eq!(epoch == promoted, position.revision == 2, "both at once");
        absorbing.join().unwrap();
        let (epoch, position) = fence.position();
        assert_eq!((epoch, position.revision), (promoted, 2));
    });
}
