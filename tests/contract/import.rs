//! The import of keys of another system: once, logged, and never over a key that is known.

use std::time::Duration;

use keyward_core::key::{Hint, KeyId, KeyRecord, Timestamp};
use keyward_crypto::Digest;
use keyward_store::import::HeldKey;
use keyward_store::{
    Import, ImportOutcome, Imported, ImportedKey, KeyTarget, ListKeys, Revocation, Revoked,
    StoredKey,
};

use crate::by_hand::copy;
use crate::world::{
    DAY, HOUR, World, actor, at_once, batch, disabled, end, kill, metadata, networks, reason,
    scopes, sealed,
};

const ONE: u8 = 1;
const TWO: u8 = 2;

impl World {
    /// A key of another system for a slot, without optional fields.
    pub(crate) fn imported_key(&self, account: &str, name: &str) -> ImportedKey {
        let new = self.plain_key(account, name);
        ImportedKey {
            id: new.id,
            digest: new.digest,
            other_digests: Vec::new(),
            hint: Hint("3f2a".to_owned()),
            sealed: None,
            account: new.account,
            name: new.name,
            scopes: new.scopes,
            metadata: new.metadata,
            networks: new.networks,
            create_time: None,
            expire_time: None,
        }
    }
}

/// Imports keys under the name of this number.
pub(crate) async fn import(world: &World, number: u8, keys: &[ImportedKey]) -> Vec<ImportOutcome> {
    run(world, number, keys, false).await.outcomes
}

async fn run(world: &World, number: u8, keys: &[ImportedKey], dry_run: bool) -> Imported {
    let import = Import {
        batch: batch(number),
        keys: keys.to_vec(),
        dry_run,
    };
    world.store.import(import, &actor()).await.unwrap()
}

/// The outcome for a key that was stored before.
fn known(id: KeyId, same_batch: bool) -> ImportOutcome {
    ImportOutcome::Known(HeldKey { id, same_batch })
}

fn undo(number: u8) -> Revocation {
    Revocation::Selection {
        selection: keyward_store::Selection::Batch(batch(number)),
        reason: reason("wrong file"),
    }
}

async fn all_keys(world: &World) -> Vec<KeyRecord> {
    let all = ListKeys {
        include_revoked: true,
        limit: 10_000,
        ..ListKeys::default()
    };
    world.listed(all).await
}

pub(crate) async fn an_imported_key_is_stored_completely(world: World) {
    let now = world.now().await;
    let whole = ImportedKey {
        sealed: Some(sealed(3)),
        scopes: scopes(&["orders:read"]),
        metadata: metadata(&[("team", "payments ✓")]),
        networks: networks(&["10.0.0.0/8"]),
        create_time: Some(Timestamp::from_micros(1_500_000_000_000_000)),
        expire_time: Some(now.plus(DAY)),
        ..world.imported_key("42", "production")
    };
    let plain = world.imported_key("7", "default");
    let imported = run(&world, ONE, &[whole.clone(), plain.clone()], false).await;
    let stored = [&whole, &plain].map(|key| ImportOutcome::Imported(key.id));
    assert_eq!(imported.outcomes, stored);
    let StoredKey { record, sealed } = world.get(whole.id).await;
    assert_eq!(sealed, whole.sealed);
    let expected = KeyRecord {
        id: whole.id,
        account: whole.account,
        name: whole.name,
        hint: whole.hint,
        scopes: whole.scopes,
        metadata: whole.metadata,
        networks: whole.networks,
        recoverable: true,
        disabled: false,
        create_time: whole.create_time.unwrap(),
        expire_time: whole.expire_time,
        revoke_time: None,
        revoked: false,
        revoke_reason: None,
        replaced_by: None,
        revision: 0,
    };
    assert_eq!(record, expected);
    let found = world.find(&plain.digest).await;
    let found_plain = found.record.unwrap();
    assert_eq!((found_plain.id, found_plain.create_time), (plain.id, now));
    assert_eq!(found.stamp.revision, 1);
    assert_eq!(all_keys(&world).await, [expected, found_plain]);

    let page = world.tail(0).await;
    let rows: Vec<_> = page.rows.iter().map(|row| row.id).collect();
    assert_eq!(rows, [KeyId::IMPORTS], "one row for the whole transaction");
    assert_eq!(imported.committed.revision, 1);
    assert_eq!(imported.committed.mark, Some(page.head_mark));
    assert_eq!(imported.committed.id, Some(KeyId::IMPORTS));
    let entry = format!("import bot batch={} imported=2", batch(ONE));
    assert_eq!(world.audit().await, [entry]);
    // A change by name: the key is one like any other.
    assert_eq!(world.update(whole.id, disabled(true)).await.1.revision, 2);
}

pub(crate) async fn the_log_names_caller_and_batch_of_an_import(world: World) {
    import(&world, ONE, &[world.imported_key("42", "a")]).await;
    let lines = world
        .read("SELECT kind || ' ' || actor || ' ' || reason FROM key_changes WHERE revision > 0")
        .await;
    assert_eq!(lines, [format!("import bot {}", batch(ONE))]);
}

pub(crate) async fn an_insert_of_an_imported_key_is_logged(world: World) {
    let from = world.plain("42").await.id;
    let batch = world.bytes(&[7; 16]);
    let insert = |number: u8| {
        let (id, digest) = (world.bytes(&[number; 16]), world.bytes(&[number; 32]));
        copy(
            "INSERT",
            &world.id(from),
            &id,
            &digest,
            &format!("'slot-{number}'"),
        )
        .replacen("generation", "import_batch", 1)
        .replacen("generation", &batch, 1)
    };
    assert_eq!(world.by_hand(&insert(1)).await, 1);
    let page = world.tail(0).await;
    assert_eq!((page.head, page.rows.len()), (1, 1));
    assert_eq!(page.rows[0].id, KeyId::IMPORTS);
    assert_eq!(world.count("key_changes WHERE kind = 'import'").await, 1);
    assert_eq!(world.record(KeyId::from_bytes([1; 16])).await.revision, 0);
    // A key of our own in the same statement changes nothing.
    let own = copy(
        "",
        &world.id(from),
        &world.bytes(&[3; 16]),
        &world.bytes(&[3; 32]),
        "'own'",
    );
    let (_, own) = own.split_once("SELECT").unwrap();
    let own = own.replacen("generation", "NULL, generation", 1);
    let both = insert(2)
        .replacen("import_batch", "import_batch, generation", 1)
        .replacen(&batch, &format!("{batch}, NULL"), 1);
    assert_eq!(
        world
            .by_hand(&format!("{both} UNION ALL SELECT {own}"))
            .await,
        2
    );
    assert_eq!(world.head().await, 2);
    for (columns, values) in [
        ("import_batch, generation", format!("{batch}, 1")),
        ("generation", "NULL".to_owned()),
    ] {
        let neither = insert(4)
            .replacen("import_batch", columns, 1)
            .replacen(&batch, &values, 1);
        assert!(world.try_by_hand(&neither).await.is_err(), "{columns}");
    }
}

/// A text has a digest under each scheme. A line knows some of them.
pub(crate) async fn a_known_key_stays_as_it_is_under_every_scheme(world: World) {
    let states = [
        ("live", None),
        ("dead", Some(Duration::ZERO)),
        ("ending", Some(DAY)),
    ];
    let (plain, sha, hmac_1, hmac_2) = ([0, 1, 2], [0; 1], [1; 1], [2; 1]);
    let schemes: [&[usize]; 4] = [&plain, &sha, &hmac_1, &hmac_2];
    for (state, grace) in states {
        for first in schemes {
            for second in schemes {
                let text: [Digest; 3] = std::array::from_fn(|_| world.digest());
                let line = |account: &str, scheme: &[usize]| {
                    let mut digests = scheme.iter().map(|n| text[*n]);
                    ImportedKey {
                        digest: digests.next().unwrap(),
                        other_digests: digests.collect(),
                        ..world.imported_key(account, "default")
                    }
                };
                let account = |n: u8| format!("{state}-{n}-{}", world.successor().id);
                let key = line(&account(1), first);
                import(&world, ONE, std::slice::from_ref(&key)).await;
                if let Some(grace) = grace {
                    world.revoke(end(key.id, grace)).await;
                }
                let (before, head) = (world.get(key.id).await.record, world.head().await);
                let again = line(&account(2), second);
                let outcome = import(&world, TWO, std::slice::from_ref(&again)).await;
                let meet = second.iter().any(|n| *n == first[0]);
                let expected = match meet {
                    true => known(key.id, false),
                    // No digest of this line is in the store. Verify finds both rows.
                    false => ImportOutcome::Imported(again.id),
                };
                assert_eq!(outcome, [expected], "{state} {first:?} {second:?}");
                assert_eq!(world.get(key.id).await.record, before);
                assert_eq!(world.head().await, head + u64::from(!meet));
            }
        }
    }
}

pub(crate) async fn an_import_again_waits_for_the_first_one(world: World) {
    let key = world.imported_key("42", "default");
    let first = run(&world, ONE, std::slice::from_ref(&key), false).await;
    world.plain("other").await;
    let again = |id| ImportedKey { id, ..key.clone() };
    for (number, same_batch) in [(ONE, true), (TWO, false)] {
        let again = run(&world, number, &[again(world.successor().id)], false).await;
        assert_eq!(again.outcomes, [known(key.id, same_batch)]);
        assert_eq!(again.committed.read_in(None), first.committed);
    }
    assert_eq!(world.audit().await.len(), 2, "nothing is audited again");
    // With nothing in the log there is nothing to wait for, and an empty call is one of these.
    let empty = run(&world, ONE, &[], false).await;
    assert_eq!((empty.outcomes, empty.committed.revision), (vec![], 1));
}

pub(crate) async fn a_key_twice_in_one_call_is_stored_once(world: World) {
    let (first, other) = (world.digest(), world.digest());
    let line = |digest, more: &[Digest], name: &str| ImportedKey {
        digest,
        other_digests: more.to_vec(),
        ..world.imported_key("42", name)
    };
    let keys = [
        line(first, &[other], "a"),
        line(first, &[other], "b"),
        line(other, &[], "c"),
        line(world.digest(), &[], "d"),
    ];
    let outcomes = import(&world, ONE, &keys).await;
    let expected = [
        ImportOutcome::Imported(keys[0].id),
        ImportOutcome::Duplicate(keys[0].id),
        ImportOutcome::Duplicate(keys[0].id),
        ImportOutcome::Imported(keys[3].id),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(all_keys(&world).await.len(), 2);
}

pub(crate) async fn a_slot_with_another_key_is_not_taken(world: World) {
    let live = world.plain("live").await;
    let dead = world.plain("dead").await;
    let ending = world.plain("ending").await;
    world.revoke(kill(dead.id)).await;
    world.revoke(end(ending.id, DAY)).await;
    let expired = world.expired("expired").await;
    let accounts = ["live", "dead", "ending", "expired", "new", "new"];
    let keys = accounts.map(|account| world.imported_key(account, "default"));
    let outcomes = import(&world, ONE, &keys).await;
    let expected = [
        ImportOutcome::SlotTaken(live.id),
        ImportOutcome::Imported(keys[1].id),
        ImportOutcome::Imported(keys[2].id),
        ImportOutcome::SlotTaken(expired.id),
        ImportOutcome::Imported(keys[4].id),
        ImportOutcome::SlotTaken(keys[4].id),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(world.record(live.id).await, live);
}

pub(crate) async fn a_dry_run_changes_nothing(world: World) {
    let taken = world.plain("taken").await;
    let keys = ["a", "taken"].map(|account| world.imported_key(account, "default"));
    let expected = [
        ImportOutcome::Imported(keys[0].id),
        ImportOutcome::SlotTaken(taken.id),
    ];
    assert_eq!(run(&world, ONE, &keys, true).await.outcomes, expected);
    assert_eq!((all_keys(&world).await.len(), world.head().await), (1, 0));
    assert_eq!(world.audit().await, ["issue bot -"]);
    assert_eq!(import(&world, ONE, &keys).await, expected);
}

pub(crate) async fn concurrent_imports_store_each_key_once(world: World) {
    let names: Vec<_> = (0..50).map(|n| format!("slot-{n}")).collect();
    let keys: Vec<_> = names.iter().map(|n| world.imported_key("42", n)).collect();
    let store = &world.store;
    let outcomes = at_once(4, |caller| {
        let mut keys = keys.clone();
        for key in &mut keys {
            key.id = world.successor().id;
        }
        // Other orders and other cuts.
        keys.rotate_left(caller * 7);
        let store = store.clone();
        async move {
            let mut imported = 0;
            for keys in keys.chunks(20) {
                let import = Import {
                    batch: batch(ONE),
                    keys: keys.to_vec(),
                    dry_run: false,
                };
                let outcomes = store.import(import, &actor()).await.unwrap().outcomes;
                let is_new = |outcome: &&ImportOutcome| {
                    assert!(!matches!(outcome, ImportOutcome::SlotTaken(_)));
                    matches!(outcome, ImportOutcome::Imported(_))
                };
                imported += outcomes.iter().filter(is_new).count();
            }
            imported
        }
    });
    assert_eq!(outcomes.await.iter().sum::<usize>(), 50);
    assert_eq!(all_keys(&world).await.len(), 50);
}

pub(crate) async fn a_batch_is_revoked_in_steps(world: World) {
    let keys = |many: usize, account: &str| -> Vec<_> {
        let name = |n| format!("slot-{n}");
        (0..many)
            .map(|n| world.imported_key(account, &name(n)))
            .collect()
    };
    let (first, second) = (keys(1_000, "42"), keys(101, "42-more"));
    import(&world, ONE, &first).await;
    import(&world, ONE, &second).await;
    let others = [keys(1, "other").remove(0)];
    import(&world, TWO, &others).await;
    let own = world.plain("own").await;
    world.revoke(end(first[0].id, HOUR)).await;
    world.revoke(kill(first[1].id)).await;
    let dead = world.record(first[1].id).await;
    let head = world.head().await;

    let undone = world.revoke(undo(ONE)).await;
    assert_eq!((undone.count, undone.keys.len()), (1_100, Revoked::LISTED));
    assert_eq!(undone.committed.revision, head + 1_100);
    assert_eq!(world.head().await, head + 1_100);
    assert_eq!(undone.revoke_time, Some(world.now().await));
    let record = world.record(second[100].id).await;
    assert!(record.revoked && record.revoke_reason == reason("wrong file"));
    assert_eq!(world.record(first[1].id).await, dead);
    for (id, account) in [(others[0].id, "other"), (own.id, "own")] {
        let record = world.record(id).await;
        assert_eq!(
            (record.revoke_time, record.account.as_str()),
            (None, account)
        );
    }
    let audit = world.audit().await;
    let entries = audit
        .iter()
        .filter(|line| **line == "revoke bot with its batch");
    assert_eq!(entries.count(), 1_100);

    world.update(own.id, disabled(true)).await;
    let again = world.revoke(undo(ONE)).await;
    assert_eq!((again.count, again.revoke_time), (0, None));
    // The caller waits for all changes so far.
    assert_eq!(again.committed.revision, head + 1_101);
    // A key of a revoked batch stays dead.
    let again = ImportedKey {
        id: world.successor().id,
        ..first[0].clone()
    };
    let known_still = known(first[0].id, true);
    assert_eq!(import(&world, ONE, &[again]).await, [known_still]);
}

pub(crate) async fn an_imported_key_is_revoked_and_replaced_by_its_id(world: World) {
    let key = world.imported_key("42", "default");
    import(&world, ONE, std::slice::from_ref(&key)).await;
    let revoked = world.replace(key.id).await;
    let successor = revoked.successor.unwrap().record;
    assert_eq!((successor.account, successor.name), (key.account, key.name));
    // Undoing the import leaves the successor, which is a key of our own.
    assert_eq!(world.revoke(undo(ONE)).await.count, 0);
    assert!(world.record(successor.id).await.revoke_time.is_none());
    let target = KeyTarget::Digests(vec![key.digest]);
    let by_text = Revocation::Key {
        target,
        successor: None,
        grace: Duration::ZERO,
        reason: None,
    };
    assert_eq!(world.revoke(by_text).await.keys[0].id, key.id);
}
