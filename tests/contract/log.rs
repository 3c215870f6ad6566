//! The log: one row for each change, in commit order, without gaps, with its mark.

use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::fence::{Change, MAX_ROWS, Page};
use keyward_store::{CommittedChange, NewKey, Store, UpdateAnswer};

use crate::world::{
    DAY, HOUR, World, actor, at_once, close, disabled, kill, kill_all, reason, replace,
};

/// Asserts that the revisions of a page are consecutive, from `applied` to the head.
fn assert_gapless(applied: u64, page: &Page) {
    let revisions: Vec<u64> = page.rows.iter().map(|row| row.revision).collect();
    assert_eq!(revisions, (applied + 1..=page.head).collect::<Vec<_>>());
}

pub(crate) async fn a_start_is_cold_at_the_head(world: World) {
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    world.revoke(kill(key.id)).await;
    let start = world.start().await;
    let page = world.tail(start.applied).await;
    assert_eq!((start.floor, start.applied), (2, 2));
    assert_eq!(page.mark_at_applied, Some(start.mark));
    assert_eq!((page.head, page.head_mark), (2, start.mark));
    assert_eq!(start.epoch, page.epoch);
    assert!(page.rows.is_empty());
}

pub(crate) async fn each_start_has_another_epoch(world: World) {
    let first = world.start().await.epoch;
    let world = world.reopened().await;
    let second = world.start().await.epoch;
    assert_ne!(first.system, second.system);
    assert_eq!(
        (first.timeline, first.incarnation),
        (second.timeline, second.incarnation)
    );
    assert_eq!(world.find(&world.digest()).await.stamp.epoch, second);
}

pub(crate) async fn a_tail_gives_the_rows_after_it_with_their_marks(world: World) {
    let (one, two) = (world.plain("1").await, world.plain("2").await);
    let mut expected = Vec::new();
    for (id, on) in [
        (one.id, true),
        (two.id, true),
        (one.id, false),
        (two.id, false),
    ] {
        let committed = world.update(id, disabled(on)).await.1;
        assert_eq!(committed.id, Some(id));
        let CommittedChange { revision, mark, .. } = committed;
        expected.push(Change {
            revision,
            mark: mark.unwrap(),
            id,
        });
    }
    let whole = world.tail(0).await;
    assert_gapless(0, &whole);
    assert_eq!(whole.rows, expected);
    let origin = whole.mark_at_applied.unwrap();
    for applied in 1..=4 {
        let page = world.tail(applied as u64).await;
        assert_eq!(page.rows, expected[applied..]);
        assert_eq!(page.mark_at_applied, Some(expected[applied - 1].mark));
        assert_eq!((page.head, page.head_mark), (4, expected[3].mark));
        assert_eq!(page.pruned_to, 0);
    }
    let mut marks: Vec<_> = expected
        .iter()
        .map(|row| row.mark)
        .chain([origin])
        .collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), 5, "each row has another mark");
}

pub(crate) async fn a_tail_beyond_the_head_finds_no_mark(world: World) {
    let page = world.tail(7).await;
    assert_eq!((page.head, page.mark_at_applied), (0, None));
    assert!(page.rows.is_empty());
}

pub(crate) async fn the_mark_on_a_row_is_the_one_in_the_log(world: World) {
    let updated = world.issue(world.plain_key("42", "updated")).await;
    let replaced = world.issue(world.plain_key("42", "replaced")).await;
    let mut all = vec![world.update(updated.id, disabled(true)).await.1];
    let call = replace(replaced.id, world.successor(), DAY);
    all.push(world.revoke(call).await.committed);
    all.push(world.revoke(kill_all("42")).await.committed);
    for committed in all {
        assert_eq!(
            world.tail(committed.revision).await.mark_at_applied,
            committed.mark
        );
    }
    let agreeing = "api_keys JOIN key_changes ON key_changes.key_id = api_keys.key_id
        AND key_changes.revision = api_keys.revision AND key_changes.mark = api_keys.mark";
    assert_eq!(world.count(agreeing).await, 3);
}

pub(crate) async fn the_log_keeps_actor_and_reason(world: World) {
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    world.revoke(close("42", reason("closed"))).await;
    world.by_hand("UPDATE api_keys SET disabled = FALSE").await;
    world.by_hand("DELETE FROM api_keys").await;
    let lines = world
        .read(
            "SELECT kind || ' ' || coalesce(actor, '-') || ' ' || coalesce(reason, '-')
               FROM key_changes ORDER BY revision",
        )
        .await;
    assert_eq!(
        lines,
        [
            "origin - -",
            "update bot -",
            "revoke bot closed",
            "update - closed",
            "delete - -"
        ]
    );
}

pub(crate) async fn a_change_rolled_back_leaves_no_gap(world: World) {
    let key = world.plain("42").await;
    let mut hand = world.connect().await;
    for sql in ["BEGIN", "UPDATE api_keys SET disabled = TRUE", "ROLLBACK"] {
        hand.run(sql).await.unwrap();
    }
    assert_eq!(world.head().await, 0);
    assert_eq!(world.update(key.id, disabled(true)).await.1.revision, 1);
}

pub(crate) async fn concurrent_changes_are_in_commit_order_without_gaps(world: World) {
    const WRITERS: usize = 16;
    const CHANGES: usize = 12;
    let mut ids = Vec::new();
    for number in 0..WRITERS {
        ids.push(world.plain(&number.to_string()).await.id);
    }
    let ended = std::sync::Arc::new(AtomicBool::new(false));
    // Checks that a head is visible only with all rows before it, and that no row appears later below it.
    let follower = tokio::spawn(follow(world.store.clone(), ended.clone()));
    let answers = at_once(WRITERS, |writer| {
        let (store, id) = (world.store.clone(), ids[writer]);
        async move {
            let mut answers = Vec::new();
            for change in 0..CHANGES {
                let answer = store
                    .update(id, disabled(change % 2 == 0), &actor())
                    .await
                    .unwrap();
                let UpdateAnswer::Done(updated) = answer else {
                    panic!("{answer:?}")
                };
                let committed = updated.committed;
                let page = store.tail(committed.revision).await.unwrap();
                assert_eq!(
                    page.mark_at_applied, committed.mark,
                    "an answered change is visible"
                );
                answers.push(Change {
                    revision: committed.revision,
                    mark: committed.mark.unwrap(),
                    id,
                });
            }
            assert!(answers.is_sorted_by_key(|change| change.revision));
            answers
        }
    })
    .await;
    ended.store(true, Ordering::SeqCst);
    let followed = follower.await.unwrap();
    let mut answers: Vec<Change> = answers.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|change| change.revision);
    assert_eq!(answers.len(), WRITERS * CHANGES);
    let page = world.tail(0).await;
    assert_gapless(0, &page);
    assert_eq!(page.rows, answers);
    assert_eq!(followed, answers);
}

/// Tails the log until `ended`, and returns all rows.
async fn follow(
    store: std::sync::Arc<dyn Store>,
    ended: std::sync::Arc<AtomicBool>,
) -> Vec<Change> {
    let mut rows: Vec<Change> = Vec::new();
    let mut mark = store.tail(0).await.unwrap().mark_at_applied.unwrap();
    loop {
        let last = ended.load(Ordering::SeqCst);
        let applied = rows.len() as u64;
        let page = store.tail(applied).await.unwrap();
        assert_gapless(applied, &page);
        assert_eq!(page.mark_at_applied, Some(mark));
        mark = page.head_mark;
        rows.extend(page.rows);
        if last {
            return rows;
        }
    }
}

/// Writes 10,100 rows to the log.
async fn change_very_often(world: &World) {
    for number in 0..101 {
        world
            .issue(world.plain_key("42", &format!("slot-{number}")))
            .await;
    }
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    for _ in 0..100 {
        hand.run("UPDATE api_keys SET disabled = NOT disabled")
            .await
            .unwrap();
    }
    hand.run("COMMIT").await.unwrap();
}

pub(crate) async fn a_tail_far_behind_reads_one_page(world: World) {
    change_very_often(&world).await;
    let far = world.tail(0).await;
    assert_eq!((far.head, far.rows.len()), (10_100, MAX_ROWS));
    assert!(far.rows.iter().map(|row| row.revision).eq(1..=10_000));
    assert_gapless(100, &world.tail(100).await);
}

pub(crate) async fn a_trim_keeps_rows_younger_than_a_day(world: World) {
    let key = world.plain("42").await;
    let change = async |on| world.update(key.id, disabled(on)).await.1;
    change(true).await;
    change(false).await;
    world.clock.pass(HOUR);
    let first_young = change(true).await;
    let last = change(false).await;
    world.clock.pass(DAY - HOUR / 2);
    assert_eq!(world.trim().await, 3, "the origin and two changes");
    let page = world.tail(first_young.revision).await;
    assert_eq!(page.pruned_to, first_young.revision);
    assert_eq!(
        page.mark_at_applied, first_young.mark,
        "the row at pruned_to stays"
    );
    assert_eq!(
        (page.head, Some(page.head_mark)),
        (last.revision, last.mark)
    );
    assert_gapless(first_young.revision, &page);
    assert_eq!(
        world.tail(first_young.revision - 1).await.mark_at_applied,
        None
    );
    assert_eq!(world.trim().await, 0);
    assert_eq!(change(true).await.revision, last.revision + 1);
    assert_eq!(
        world.revoke(kill(key.id)).await.committed.revision,
        last.revision + 2
    );
}

pub(crate) async fn a_trim_keeps_the_last_row(world: World) {
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    let last = world.revoke(kill(key.id)).await.committed;
    world.clock.pass(2 * DAY);
    assert_eq!(world.trim().await, 2);
    let page = world.tail(last.revision).await;
    assert_eq!((page.head, page.pruned_to), (last.revision, last.revision));
    assert_eq!(page.mark_at_applied, last.mark);
    let again = world.revoke(kill(key.id)).await.committed;
    assert_eq!(again, last, "the key's row keeps a trimmed change");
    let start = world.start().await;
    assert_eq!(
        (start.applied, Some(start.mark)),
        (last.revision, last.mark)
    );
}

/// A log that was not trimmed for long recovers by many short transactions.
pub(crate) async fn a_trim_is_a_bounded_step(world: World) {
    change_very_often(&world).await;
    world.clock.pass(2 * DAY);
    for (trimmed, pruned_to) in [(10_000, 10_000), (100, 10_100), (0, 10_100)] {
        assert_eq!(world.trim().await, trimmed);
        let page = world.tail(10_100).await;
        assert_eq!((page.head, page.pruned_to), (10_100, pruned_to));
        assert_eq!(world.count("key_changes").await as u64, 10_101 - pruned_to);
    }
}

pub(crate) async fn a_trim_of_a_new_log_does_nothing(world: World) {
    world
        .issue(NewKey {
            generation: 3,
            ..world.plain_key("42", "default")
        })
        .await;
    world.clock.pass(2 * DAY);
    assert_eq!(world.trim().await, 0);
    assert!(world.tail(0).await.mark_at_applied.is_some());
}

pub(crate) async fn an_incarnation_raised_by_hand_is_seen_at_once(world: World) {
    let before = world.tail(0).await.epoch;
    world
        .by_hand("UPDATE log_state SET incarnation = incarnation + 1")
        .await;
    let raised = world.tail(0).await.epoch;
    assert_eq!(raised.incarnation, before.incarnation + 1);
    assert_eq!(
        (raised.system, raised.timeline),
        (before.system, before.timeline)
    );
    assert_eq!(world.find(&world.digest()).await.stamp.epoch, raised);
    assert_eq!(world.find_token(&world.digest()).await.stamp.epoch, raised);
    assert_eq!(world.start().await.epoch, raised);
}
