//! The rows of instances: registration, heartbeat, acknowledgement, confirmation, reaping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keyward_core::fence::{Epoch, Page, Position, RegistrationId};
use keyward_crypto::{KeyKind, KeyName};
use keyward_store::{
    ChangeNotice, CommittedChange, NewInstance, Revocation, RevokeAnswer, StoreError, UpdateAnswer,
};
use keyward_testkit::{PATIENCE, eventually};

use super::{STALENESS, fresh};
use crate::world::{DAY, World, actor, disabled, kill, kill_all};

fn registration(number: u8) -> RegistrationId {
    RegistrationId::from_bytes([number; 16])
}

fn instance(number: u8) -> NewInstance {
    NewInstance {
        registration: registration(number),
        name: format!("test {number}"),
        max_staleness: STALENESS,
        loaded: names(&[1, 7]),
    }
}

/// The names of generations.
fn names(numbers: &[u32]) -> Vec<KeyName> {
    let name = |number: &u32| KeyName {
        kind: KeyKind::Generation,
        number: *number,
    };
    numbers.iter().map(name).collect()
}

async fn world_with(instances: &[u8]) -> World {
    let world = World::new(fresh().await).await;
    for number in instances {
        world.cluster().register(&instance(*number)).await.unwrap();
    }
    world
}

/// The heartbeat and acknowledged revision of an instance in the membership.
async fn row(world: &World, number: u8) -> Option<(u64, u64)> {
    let membership = world.cluster().membership().await.unwrap();
    let found = membership
        .members
        .iter()
        .find(|member| member.registration == registration(number));
    found.map(|member| (member.heartbeat, member.acked))
}

/// The row of the log at `revision`.
async fn position(world: &World, revision: u64) -> Position {
    let mark = world.tail(revision).await.mark_at_applied;
    Position {
        revision,
        mark: mark.unwrap_or([7; 8]),
    }
}

async fn heartbeat(world: &World, number: u8, applied: u64) -> Option<Page> {
    let (registration, acked) = (registration(number), position(world, applied).await);
    let page = world
        .cluster()
        .heartbeat(registration, acked, applied)
        .await;
    page.unwrap()
}

async fn acknowledge(world: &World, number: u8, acked: Position) {
    let acknowledged = world
        .cluster()
        .acknowledge(registration(number), acked)
        .await;
    acknowledged.unwrap();
}

/// The next change notice.
async fn next_notice(world: &World) -> ChangeNotice {
    let notice = tokio::time::timeout(PATIENCE, world.cluster().next_change_notice()).await;
    notice.unwrap()
}

async fn confirm(world: &World, number: u8, changes: &[CommittedChange]) -> (bool, Vec<bool>) {
    let answer = world
        .cluster()
        .confirm(registration(number), changes, 0)
        .await
        .unwrap();
    assert_eq!(answer.membership.epoch, world.tail(0).await.epoch);
    (answer.stands.is_some(), answer.stands.unwrap_or_default())
}

#[tokio::test]
async fn a_registration_creates_its_row_once() {
    let world = world_with(&[1]).await;
    let membership = world.cluster().membership().await.unwrap();
    assert_eq!(membership.epoch, world.tail(0).await.epoch);
    assert_eq!(membership.members.len(), 1);
    assert_eq!(membership.members[0].max_staleness, STALENESS);
    assert_eq!(row(&world, 1).await, Some((0, 0)));
    assert!(
        world.cluster().register(&instance(1)).await.is_err(),
        "never an upsert"
    );
    assert_eq!(world.count("instances").await, 1);
}

#[tokio::test]
async fn a_heartbeat_writes_the_row_and_reads_the_log() {
    let world = world_with(&[1, 2]).await;
    let key = world.plain("42").await;
    let committed = world.update(key.id, disabled(true)).await.1;
    let page = heartbeat(&world, 1, 0).await.unwrap();
    let read = world.tail(0).await;
    assert_eq!((page.head, &page.rows), (1, &read.rows));
    assert_eq!(
        (page.head_mark, page.mark_at_applied),
        (read.head_mark, read.mark_at_applied)
    );
    assert_eq!((page.epoch, page.pruned_to), (read.epoch, 0));
    assert_eq!(row(&world, 1).await, Some((1, 0)));
    let page = heartbeat(&world, 1, 1).await.unwrap();
    assert_eq!(page.mark_at_applied, committed.mark);
    assert!(page.rows.is_empty());
    assert_eq!(row(&world, 1).await, Some((2, 1)));
    // The same call again, as after an unknown outcome, still raises the heartbeat.
    heartbeat(&world, 1, 1).await.unwrap();
    assert_eq!(row(&world, 1).await, Some((3, 1)));
    assert_eq!(row(&world, 2).await, Some((0, 0)), "only its own row");
}

#[tokio::test]
async fn a_heartbeat_without_a_row_writes_nothing() {
    let world = world_with(&[1]).await;
    assert!(heartbeat(&world, 9, 0).await.is_none());
    world.cluster().leave(registration(1)).await.unwrap();
    assert!(heartbeat(&world, 1, 0).await.is_none());
    assert_eq!(world.count("instances").await, 0);
    world.cluster().leave(registration(1)).await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_raises_the_acknowledged_revision_and_not_the_heartbeat() {
    let world = world_with(&[1]).await;
    let key = world.plain("42").await;
    for change in 0..5 {
        world.update(key.id, disabled(change % 2 == 0)).await;
    }
    for (acked, shown) in [(3, 3), (2, 3), (5, 5)] {
        acknowledge(&world, 1, position(&world, acked).await).await;
        assert_eq!(row(&world, 1).await, Some((0, shown)));
    }
    // The next commit on the same connection is durable again.
    heartbeat(&world, 1, 5).await;
    assert_eq!(row(&world, 1).await, Some((1, 5)));
}

/// The number of a change that another history has lost must not count for the change that has the number
/// now.
#[tokio::test]
async fn an_acknowledgement_counts_only_while_its_mark_stands_in_the_log() {
    let world = world_with(&[1, 2]).await;
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    let applied = position(&world, 1).await;
    let lost = Position {
        mark: [9; 8],
        ..applied
    };
    let beyond = Position {
        revision: 7,
        ..applied
    };
    for (acked, shown) in [(lost, 0), (beyond, 0), (applied, 1)] {
        acknowledge(&world, 1, acked).await;
        assert_eq!(row(&world, 1).await, Some((0, shown)), "{acked:?}");
        world
            .by_hand("UPDATE instances SET applied_revision = 0 WHERE beat = 0")
            .await;
        let page = world.cluster().heartbeat(registration(2), acked, 1).await;
        assert_eq!(page.unwrap().unwrap().mark_at_applied, Some(applied.mark));
        assert_eq!(row(&world, 2).await.unwrap().1, shown, "{acked:?}");
    }
}

#[tokio::test]
async fn a_settled_epoch_is_named_only_while_it_is_the_epoch_of_the_store() {
    let world = world_with(&[]).await;
    let cluster = world.cluster();
    let named = async || cluster.membership().await.unwrap().settled;
    let epoch = cluster.membership().await.unwrap().epoch;
    assert_eq!(named().await, None);
    let others = [
        Epoch { system: 1, ..epoch },
        Epoch {
            timeline: 9,
            ..epoch
        },
        Epoch {
            incarnation: 9,
            ..epoch
        },
    ];
    for other in others {
        cluster.settle(other).await.unwrap();
        assert_eq!(named().await, None, "{other:?}");
    }
    cluster.settle(epoch).await.unwrap();
    assert_eq!(named().await, Some(epoch));
    world
        .by_hand("UPDATE log_state SET incarnation = incarnation + 1")
        .await;
    assert_ne!(cluster.membership().await.unwrap().epoch, epoch);
    assert_eq!(named().await, Some(epoch));
}

/// What such a call found must still hold where the write of its confirmation commits.
#[tokio::test]
async fn a_call_that_changes_nothing_names_the_epoch_of_its_read() {
    let world = world_with(&[]).await;
    let epoch = world.tail(0).await.epoch;
    let revoke = async |revocation: Revocation| match world
        .store
        .revoke(revocation, &actor())
        .await
        .unwrap()
    {
        RevokeAnswer::Done(revoked) => revoked.committed.read_in,
        RevokeAnswer::NotFound { read_in } => read_in,
        RevokeAnswer::Expired => None,
    };
    let update = async |id, changes| match world.store.update(id, changes, &actor()).await.unwrap()
    {
        UpdateAnswer::Done(updated) => updated.committed.read_in,
        other => panic!("{other:?}"),
    };
    let new = world.plain_key("42", "default");
    let issued = world.issue_or_get(new.clone()).await;
    assert_eq!((issued.created, issued.read_in), (true, None));
    let issued = world.issue_or_get(world.plain_key("42", "default")).await;
    assert_eq!((issued.created, issued.read_in), (false, Some(epoch)));
    assert_eq!(update(new.id, disabled(true)).await, None);
    assert_eq!(update(new.id, disabled(true)).await, Some(epoch));
    assert_eq!(revoke(kill(new.id)).await, None);
    assert_eq!(revoke(kill(new.id)).await, Some(epoch));
    let unknown = world.plain_key("42", "unknown").id;
    assert_eq!(revoke(kill(unknown)).await, Some(epoch));
    // A key may have been issued to an account in another epoch.
    for account in ["42", "none"] {
        assert_eq!(revoke(kill_all(account)).await, Some(epoch));
    }
    let token = world.token("bot").await.id;
    for read_in in [None, Some(epoch)] {
        let revoked = world.store.revoke_token(token, &actor()).await.unwrap();
        assert_eq!(revoked.unwrap().committed.read_in, read_in);
    }
}

#[tokio::test]
async fn a_row_is_reaped_only_while_its_heartbeat_is_unchanged() {
    let world = world_with(&[1, 2]).await;
    heartbeat(&world, 1, 0).await;
    assert!(!world.cluster().reap(registration(1), 0).await.unwrap());
    assert!(world.cluster().reap(registration(1), 1).await.unwrap());
    assert!(!world.cluster().reap(registration(1), 1).await.unwrap());
    assert_eq!(row(&world, 1).await, None);
    assert!(row(&world, 2).await.is_some());
}

/// Another session has locked the row: somebody in psql, or a heartbeat that waits for a standby.
#[tokio::test]
async fn a_locked_row_is_not_waited_for_and_does_not_count_as_deleted() {
    let world = world_with(&[1, 2]).await;
    let cluster = world.cluster();
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    let lock = "SELECT FROM instances WHERE name = 'test 1' FOR UPDATE";
    hand.run(lock).await.unwrap();
    assert!(!cluster.reap(registration(1), 0).await.unwrap());
    let left = cluster.leave(registration(1)).await;
    assert!(matches!(left, Err(StoreError::Locked(_))), "{left:?}");
    assert!(cluster.reap(registration(2), 0).await.unwrap());
    assert!(row(&world, 1).await.is_some());
    hand.run("COMMIT").await.unwrap();
    for _ in 0..2 {
        cluster.leave(registration(1)).await.unwrap();
        assert_eq!(row(&world, 1).await, None);
    }
}

#[tokio::test]
async fn a_change_is_confirmed_while_the_log_or_its_row_has_it() {
    let world = world_with(&[1]).await;
    let key = world.plain("42").await;
    let first = world.update(key.id, disabled(true)).await.1;
    let last = world.revoke(kill(key.id)).await.committed;
    let token = world.token("bot").await;
    let of_token = world.revoke_token(token.id).await.committed;
    let all = [last, first, of_token];
    assert_eq!(confirm(&world, 1, &all).await, (true, vec![true; 3]));
    let foreign = CommittedChange {
        mark: Some([9; 8]),
        ..last
    };
    let beyond = CommittedChange {
        revision: 99,
        ..last
    };
    assert_eq!(
        confirm(&world, 1, &[foreign, last, beyond]).await.1,
        [false, true, false]
    );
    world.clock.pass(2 * DAY);
    let other = world.plain("other").await;
    world.revoke(kill(other.id)).await;
    assert!(world.trim().await > 0);
    assert_eq!(
        confirm(&world, 1, &all).await.1,
        [true, false, true],
        "a trimmed change is on its row if it was the row's last change"
    );
}

/// Before that, the change is not effective everywhere, and a commit would be in vain.
#[tokio::test]
async fn a_confirmation_writes_only_once_all_other_instances_have_acknowledged() {
    let world = world_with(&[1, 2, 3]).await;
    let key = world.plain("42").await;
    let change = world.revoke(kill(key.id)).await.committed;
    let confirm = async |once_acked| {
        let cluster = world.cluster();
        let changes = [change];
        let answer = cluster.confirm(registration(1), &changes, once_acked);
        let answer = answer.await.unwrap();
        let acked = answer.membership.members.iter().map(|member| member.acked);
        (answer.stands, acked.sum::<u64>())
    };
    let applied = position(&world, 1).await;
    let lost = Position {
        mark: [9; 8],
        ..applied
    };
    assert_eq!(confirm(1).await, (None, 0));
    acknowledge(&world, 2, applied).await;
    assert_eq!(confirm(1).await, (None, 1));
    acknowledge(&world, 3, lost).await;
    assert_eq!(confirm(1).await, (None, 1), "of another history");
    assert_eq!(confirm(0).await, (Some(vec![true]), 1));
    heartbeat(&world, 3, 1).await;
    assert_eq!(confirm(1).await, (Some(vec![true]), 2));
}

#[tokio::test]
async fn a_confirmation_commits_a_write_to_the_instances_row() {
    let world = world_with(&[1]).await;
    let before = world.read("SELECT confirms::text FROM instances").await;
    assert!(confirm(&world, 1, &[CommittedChange::NOTHING]).await.0);
    assert_ne!(
        world.read("SELECT confirms::text FROM instances").await,
        before
    );
    assert!(
        !confirm(&world, 9, &[CommittedChange::NOTHING]).await.0,
        "without a row, nothing is written"
    );
}

#[tokio::test]
async fn a_heartbeat_that_hangs_times_out_and_its_backend_is_terminated() {
    let world = world_with(&[1]).await;
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    hand.run("SELECT FROM instances FOR UPDATE").await.unwrap();
    let hung = {
        let origin = position(&world, 0).await;
        world.cluster().heartbeat(registration(1), origin, 0).await
    };
    assert!(
        matches!(hung, Err(StoreError::OutcomeUnknown(_))),
        "{hung:?}"
    );
    let waiting =
        "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    assert_eq!(world.count(waiting).await, 1);
    world.cluster().register(&instance(2)).await.unwrap();
    assert!(heartbeat(&world, 2, 0).await.is_some());
    eventually("the backend ends", PATIENCE, || async {
        world.count(waiting).await == 0
    })
    .await;
    hand.run("COMMIT").await.unwrap();
    assert_eq!(
        row(&world, 1).await,
        Some((0, 0)),
        "the heartbeat was never written"
    );
}

#[tokio::test]
async fn a_change_notice_reaches_a_listener() {
    let world = world_with(&[]).await;
    let key = world.plain("42").await;
    assert_eq!(
        next_notice(&world).await,
        ChangeNotice::Lost,
        "the listener starts"
    );
    world.update(key.id, disabled(true)).await;
    assert_eq!(next_notice(&world).await, ChangeNotice::Changed);
    // A disconnected listener may have missed notices, even if it reconnects at once.
    world
        .by_hand(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE query LIKE 'LISTEN%' AND datname = current_database()",
        )
        .await;
    assert_eq!(next_notice(&world).await, ChangeNotice::Lost);
    assert_eq!(next_notice(&world).await, ChangeNotice::Lost);
    world.revoke(kill(key.id)).await;
    assert_eq!(next_notice(&world).await, ChangeNotice::Changed);
}

#[tokio::test]
async fn on_commit_runs_only_after_commits_that_change_something() {
    let world = world_with(&[]).await;
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let on_commit = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    world.cluster().set_on_commit(Box::new(on_commit));
    let since = || calls.swap(0, Ordering::SeqCst);
    let key = world.plain("42").await;
    assert_eq!(since(), 0, "no cache can hold a new key");
    world.update(key.id, disabled(true)).await;
    assert_eq!(since(), 1);
    world.revoke(kill(key.id)).await;
    assert_eq!(since(), 1);
    world.revoke(kill(key.id)).await;
    assert_eq!(since(), 0, "the key is dead already");
}
