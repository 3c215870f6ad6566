//! Batches of reads: what shares a statement, and what a failure takes with it.

use super::*;

/// The reads that arrive during a statement form the next one.
#[tokio::test]
async fn concurrent_misses_take_one_statement_and_a_damaged_record_fails_alone() {
    let world = World::new();
    let lookup = world.lookup(gathering());
    let first = ask(&lookup, known(2), Consistency::Default);
    world.until_reads(1).await;
    let digests = (10..30).map(known).chain([DAMAGED, known(1)]);
    let callers: Vec<_> = digests
        .map(|digest| ask(&lookup, digest, Consistency::Default))
        .collect();
    // All have queued their reads after this.
    tokio::task::yield_now().await;
    world.answers.add_permits(100);
    assert!(first.await.unwrap().unwrap().is_none());
    let mut outcomes = Vec::new();
    for caller in callers {
        outcomes.push(caller.await.unwrap());
    }
    assert!(outcomes.pop().unwrap().unwrap().is_some());
    let damaged = outcomes.pop().unwrap();
    assert!(
        matches!(&damaged, Err(LookupError::Store(error)) if matches!(**error, StoreError::Damaged(_))),
        "{damaged:?}"
    );
    assert!(outcomes.into_iter().all(|found| found.unwrap().is_none()));
    let statements = world.statements.lock().clone();
    assert_eq!(statements[..2], [1, 22]);
    assert_eq!(statements[2..], [1; 22], "each alone after the damaged one");
}

/// A panic fails the reads of its batch, not the reader.
#[tokio::test]
async fn a_lost_read_ends_with_an_error() {
    let world = World::new();
    let lookup = world.lookup(limits(1, 10));
    world.answers.close();
    for _ in 0..2 {
        let lost = lookup.find(&known(1), Consistency::Default).await;
        assert!(matches!(lost, Err(LookupError::Store(_))), "{lost:?}");
    }
}

/// A slow shared cache holds up only the reads for which it has a place, and not for ever.
#[tokio::test]
async fn reads_pass_by_a_slow_shared_cache() {
    let world = World::new();
    let lookup = world.sharing(limits(1, 10));
    let held = world.shared_answers.acquire().await.unwrap();
    for n in [2, 3] {
        ask(&lookup, known(n), Consistency::Default);
        // The caller queues its read, and the reader takes the first one.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    world.answers.add_permits(10);
    let found = ask(&lookup, known(1), Consistency::Default).await.unwrap();
    assert!(found.unwrap().is_some());
    drop(held);
}
