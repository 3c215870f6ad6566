//! Reads: a record with the head of the same snapshot, keys by name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_core::key::{Hint, Prefix};
use keyward_store::{KeyChanges, KeyTarget};

use crate::world::{World, actor, assert_damaged, disabled, find, kill, kill_all, metadata};

pub(crate) async fn a_key_is_found_by_its_digest(world: World) {
    let new = world.full_key("42", "default").await;
    let key = world.issue(new.clone()).await;
    world.plain("another").await;
    let found = world.find(&new.digest).await;
    assert_eq!((found.record, found.stamp.revision), (Some(key.clone()), 0));
    let (updated, committed) = world.update(key.id, disabled(true)).await;
    let found = world.find(&new.digest).await;
    assert_eq!(
        (found.record, found.stamp.revision),
        (Some(updated), committed.revision)
    );
    assert_eq!(found.stamp.epoch, world.tail(0).await.epoch);
}

pub(crate) async fn many_keys_are_found_in_the_order_of_their_digests(world: World) {
    let (mut digests, mut keys) = (Vec::new(), Vec::new());
    for number in 0..64 {
        let new = world.plain_key("42", &format!("slot-{number}"));
        digests.push(new.digest);
        keys.push((number % 3 != 0).then_some(new));
    }
    let mut expected = Vec::new();
    for new in keys {
        expected.push(match new {
            Some(new) => Some(world.issue(new).await),
            None => None,
        });
    }
    digests.rotate_left(7);
    expected.rotate_left(7);
    (digests[5], expected[5]) = (digests[1], expected[1].clone());
    let found = world.store.find_keys(&digests).await.unwrap();
    let stamp = found[0].stamp;
    assert!(found.iter().all(|found| found.stamp == stamp));
    let records: Vec<_> = found.into_iter().map(|found| found.record).collect();
    assert_eq!(records, expected);
}

pub(crate) async fn an_absent_digest_has_the_stamp_of_the_head(world: World) {
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    let found = world.find(&world.digest()).await;
    assert_eq!(found.record, None);
    assert_eq!(
        (found.stamp.revision, found.stamp.epoch),
        (1, world.tail(0).await.epoch)
    );
}

pub(crate) async fn a_key_is_read_with_its_sealed_copy(world: World) {
    let new = world.full_key("42", "default").await;
    let key = world.issue(new.clone()).await;
    for target in [KeyTarget::Id(key.id), KeyTarget::Digests(vec![new.digest])] {
        let got = world.store.get_key(&target).await.unwrap().unwrap();
        assert_eq!((got.record, &got.sealed), (key.clone(), &new.sealed));
    }
    for target in [
        KeyTarget::Id(world.successor().id),
        KeyTarget::Digests(vec![world.digest()]),
    ] {
        assert!(world.store.get_key(&target).await.unwrap().is_none());
    }
}

pub(crate) async fn a_stamp_is_the_head_of_the_snapshot_that_read_the_record(world: World) {
    let new = world.plain_key("42", "default");
    let key = world.issue(new.clone()).await;
    let other = world.plain("other").await;
    let ended = Arc::new(AtomicBool::new(false));
    let readers = [(); 3].map(|()| {
        let (store, ended) = (world.store.clone(), ended.clone());
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let found = find(&*store, &new.digest).await.unwrap();
                seen.push((found.stamp.revision, found.record.unwrap()));
            }
            seen
        })
    });
    let mut history = vec![key.clone()];
    for number in 0..100 {
        let counter = metadata(&[("counter", &number.to_string())]);
        let changes = KeyChanges {
            metadata: Some(counter),
            ..KeyChanges::default()
        };
        history.push(world.update(key.id, changes).await.0);
        world.update(other.id, disabled(number % 2 == 0)).await;
    }
    ended.store(true, Ordering::SeqCst);
    for reader in readers {
        for (stamp, record) in reader.await.unwrap() {
            let newest = history
                .iter()
                .rfind(|record| record.revision <= stamp)
                .unwrap();
            assert_eq!(
                &record, newest,
                "the record must be exactly that of revision {stamp}"
            );
        }
    }
}

pub(crate) async fn an_open_transaction_is_neither_visible_nor_blocking(world: World) {
    let new = world.plain_key("42", "default");
    let key = world.issue(new.clone()).await;
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    hand.run("UPDATE api_keys SET disabled = TRUE")
        .await
        .unwrap();
    let found = world.find(&new.digest).await;
    assert_eq!((found.record, found.stamp.revision), (Some(key.clone()), 0));
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(world.head().await, 0);
    hand.run("COMMIT").await.unwrap();
    let found = world.find(&new.digest).await;
    assert_eq!(found.stamp.revision, 1);
    assert!(found.record.unwrap().disabled);
}

pub(crate) async fn a_long_read_blocks_nothing(world: World) {
    let key = world.plain("42").await;
    let mut hand = world.connect().await;
    let count = "SELECT CAST(count(*) AS TEXT) FROM key_changes";
    hand.run("BEGIN").await.unwrap();
    hand.read(count).await;
    world.revoke(kill(key.id)).await;
    assert_eq!(world.head().await, 1);
    assert!(world.record(key.id).await.revoke_time.is_some());
    hand.run("COMMIT").await.unwrap();
    assert_eq!(hand.read(count).await, ["2"]);
}

pub(crate) async fn an_invalid_record_is_an_error(world: World) {
    for (account, change) in [
        ("1", "scopes = '[7]'"),
        ("2", r#"allowed_cidrs = '["10.0.0.1/8"]'"#),
        ("3", r#"metadata = '{"a": {}}'"#),
    ] {
        let new = world.plain_key(account, "default");
        let key = world.issue(new.clone()).await;
        world
            .by_hand(&format!(
                "UPDATE api_keys SET {change} WHERE account_id = '{account}'"
            ))
            .await;
        let found = find(&*world.store, &new.digest).await;
        assert_damaged(&found);
        let got = world.store.get_key(&KeyTarget::Id(key.id)).await;
        assert_damaged(&got);
        let again = world
            .store
            .issue(world.plain_key(account, "default"), &actor())
            .await;
        assert_damaged(&again);
    }
}

pub(crate) async fn prefixes_that_are_not_accepted_are_counted(world: World) {
    let prefixes = |names: &[&str]| -> Vec<Prefix> {
        names
            .iter()
            .map(|name| Prefix::new(name).unwrap())
            .collect()
    };
    let missing = async |names: &[&str]| {
        let mut missing = world.store.note_prefixes(&prefixes(names)).await.unwrap();
        missing.sort();
        missing
    };
    let found = |name: &str, keys| (name.to_owned(), keys);
    assert_eq!(missing(&["kw"]).await, []);
    for (prefix, count) in [("old", 2), ("old_one", 1), ("kw", 1)] {
        assert_eq!(missing(&[prefix, "kw", "old", "old_one"]).await, []);
        for number in 0..count {
            let mut new = world.plain_key(prefix, &format!("slot-{number}"));
            new.hint = Hint(format!("{prefix}_abcd"));
            world.issue(new).await;
        }
    }
    assert_eq!(
        missing(&["kw"]).await,
        [found("old", 2), found("old_one", 1)]
    );
    assert_eq!(missing(&["old_one", "kw"]).await, [found("old", 2)]);
    assert_eq!(missing(&["new", "old", "old_one"]).await, [found("kw", 1)]);
    world.revoke(kill_all("old")).await;
    let world = world.reopened().await;
    let missing = world.store.note_prefixes(&prefixes(&["kw"])).await.unwrap();
    assert!(missing.contains(&found("old", 0)) && missing.contains(&found("new", 0)));
}
