//! Reads: a record with the head of the same snapshot, keys by name, lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_core::key::{Hint, KeyId, KeyRecord, Prefix};
use keyward_store::{Expiry, KeyChanges, KeyTarget, ListKeys};

use crate::world::{
    DAY, HOUR, World, account, actor, assert_damaged, disabled, end, find, kill, kill_all, metadata,
};

fn list(account: &str, include_revoked: bool) -> ListKeys {
    ListKeys {
        account: Some(self::account(account)),
        include_revoked,
        older_than: None,
        after: None,
        limit: 1_000,
    }
}

fn ids(records: &[KeyRecord]) -> Vec<KeyId> {
    records.iter().map(|record| record.id).collect()
}

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

pub(crate) async fn keys_are_listed_page_by_page_in_order_of_creation(world: World) {
    let mut all = Vec::new();
    for number in 0..7 {
        all.push(
            world
                .issue(world.plain_key("42", &format!("slot-{number}")))
                .await,
        );
        world.plain(&format!("another-{number}")).await;
    }
    assert_eq!(world.store.list_keys(list("42", false)).await.unwrap(), all);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|record: &KeyRecord| record.id);
        let query = ListKeys {
            after,
            limit: 3,
            ..list("42", false)
        };
        let page = world.store.list_keys(query).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(
        world
            .store
            .list_keys(list("4", true))
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn a_list_omits_revoked_keys(world: World) {
    let now = world.now().await;
    let mut all = Vec::new();
    for name in ["live", "dead", "ending", "expired", "disabled"] {
        let mut new = world.plain_key("42", name);
        if name == "expired" {
            new.expiry = Expiry::At(now);
        }
        all.push(world.issue(new).await.id);
    }
    world.revoke(kill(all[1])).await;
    world.revoke(end(all[2], DAY)).await;
    world.update(all[4], disabled(true)).await;
    let listed = world.store.list_keys(list("42", false)).await.unwrap();
    assert_eq!(ids(&listed), [all[0], all[2], all[3], all[4]]);
    assert_eq!(
        ids(&world.store.list_keys(list("42", true)).await.unwrap()),
        all
    );
    let query = ListKeys {
        after: Some(all[0]),
        limit: 1,
        ..list("42", false)
    };
    assert_eq!(ids(&world.store.list_keys(query).await.unwrap()), [all[2]]);
}

pub(crate) async fn keys_are_listed_by_their_age(world: World) {
    let mut all = Vec::new();
    for name in ["oldest", "older", "new"] {
        all.push(world.issue(world.plain_key("42", name)).await.id);
        world.clock.pass(HOUR);
    }
    let listed = async |least| {
        let older_than = Some(least);
        let query = ListKeys {
            older_than,
            ..list("42", false)
        };
        ids(&world.store.list_keys(query).await.unwrap())
    };
    let moment = Duration::from_millis(100);
    assert_eq!(listed(Duration::ZERO).await, all);
    assert_eq!(listed(HOUR).await, all);
    assert_eq!(listed(HOUR + moment).await, all[..2]);
    assert_eq!(listed(3 * HOUR).await, all[..1]);
    assert_eq!(listed(3 * HOUR + moment).await, []);
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
