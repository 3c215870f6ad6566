//! Manual SQL: a change is logged like any other, or refused.

use keyward_core::key::KeyId;
use keyward_store::{NewKey, StoredKey};

use crate::world::{DAY, World, end, kill, replace, sealed};

/// SQL that inserts a copy of the key `from` with another id, digest and slot. All arguments are SQL.
fn copy(insert: &str, from: &str, id: &str, digest: &str, name: &str) -> String {
    format!(
        "{insert} INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time)
         SELECT {id}, {digest}, generation, account_id, {name}, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time FROM api_keys WHERE key_id = {from}"
    )
}

/// Asserts that the last change has this revision, belongs to `id`, and is on its row.
async fn assert_logged(world: &World, revision: u64, id: KeyId, what: &str) {
    let page = world.tail(revision - 1).await;
    assert_eq!((page.head, page.rows.len()), (revision, 1), "{what}");
    assert_eq!(page.rows[0].id, id, "{what}");
    assert_eq!(world.record(id).await.revision, revision, "{what}");
    let mark = world.bytes(&page.head_mark);
    assert_eq!(
        world.count(&format!("api_keys WHERE mark = {mark}")).await,
        1,
        "{what}"
    );
}

pub(crate) async fn every_change_of_a_record_is_logged(world: World) {
    let id = world.plain("42").await.id;
    let other = world.bytes(&[5; 16]);
    world.plain("another").await;
    let changes = [
        r#"scopes = '["x"]'"#.to_owned(),
        r#"metadata = '{"a":"b"}'"#.to_owned(),
        r#"allowed_cidrs = '["10.0.0.0/8"]'"#.to_owned(),
        "disabled = TRUE".to_owned(),
        "expire_time = create_time".to_owned(),
        format!(
            "revoke_time = {}, replaced_by = {other}",
            world.a_tick_after("create_time")
        ),
        "revoke_time = create_time".to_owned(),
        "revoke_reason = 'by hand'".to_owned(),
    ];
    for (revision, change) in (1..).zip(changes) {
        let sql = format!(
            "UPDATE api_keys SET {change} WHERE key_id = {}",
            world.id(id)
        );
        assert_eq!(world.by_hand(&sql).await, 1);
        assert_logged(&world, revision, id, &change).await;
    }
    assert_eq!(world.count("key_changes WHERE actor IS NOT NULL").await, 0);
}

pub(crate) async fn every_row_of_a_statement_is_logged(world: World) {
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        ids.push(world.issue(world.plain_key("42", name)).await.id);
    }
    for (statement, sql) in (0..).zip([
        "UPDATE api_keys SET disabled = TRUE",
        "DELETE FROM api_keys",
    ]) {
        assert_eq!(world.by_hand(sql).await, 5);
        let page = world.tail(5 * statement).await;
        assert!(
            page.rows
                .iter()
                .map(|row| row.revision)
                .eq(5 * statement + 1..=page.head)
        );
        let mut logged: Vec<_> = page.rows.iter().map(|row| row.id).collect();
        logged.sort_unstable();
        assert_eq!(logged, ids, "{sql}");
    }
}

pub(crate) async fn a_delete_is_logged(world: World) {
    let new = world.plain_key("42", "default");
    let id = world.issue(new.clone()).await.id;
    world
        .by_hand(&format!(
            "DELETE FROM api_keys WHERE key_id = {}",
            world.id(id)
        ))
        .await;
    let page = world.tail(0).await;
    assert_eq!((page.head, page.rows[0].id), (1, id));
    let found = world.find(&new.digest).await;
    assert_eq!((found.record, found.stamp.revision), (None, 1));
}

pub(crate) async fn an_insert_is_not_logged(world: World) {
    let from = world.plain("42").await.id;
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let from = world.id(from);
    assert_eq!(
        world
            .by_hand(&copy("INSERT", &from, &id, &digest, "'slot'"))
            .await,
        1
    );
    assert_eq!(world.head().await, 0);
    assert_eq!(world.record(KeyId::from_bytes([5; 16])).await.revision, 0);
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

pub(crate) async fn columns_outside_the_record_are_not_logged(world: World) {
    let new = NewKey {
        sealed: Some(sealed(1)),
        ..world.plain_key("42", "default")
    };
    let key = world.issue(new).await;
    let moved = world.bytes(sealed(2).as_bytes());
    world
        .by_hand(&format!("UPDATE api_keys SET sealed = {moved}"))
        .await;
    world
        .by_hand("UPDATE api_keys SET changed_by = 'somebody'")
        .await;
    assert_eq!(world.head().await, 0);
    let StoredKey { record, sealed } = world.get(key.id).await;
    assert_eq!(
        (record, sealed),
        (key, Some(self::sealed(2))),
        "as when a sealed copy is encrypted again"
    );
}

pub(crate) async fn immutable_columns_cannot_change(world: World) {
    let key = world.plain("42").await;
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    for change in [
        format!("key_id = {id}"),
        format!("digest = {digest}"),
        "generation = generation + 1".to_owned(),
        format!("generation = NULL, import_batch = {id}"),
        "account_id = 'thief'".to_owned(),
        "name = 'other'".to_owned(),
        "hint = 'kw_zzzz'".to_owned(),
        "recoverable = NOT recoverable".to_owned(),
        format!("create_time = {}", world.a_tick_after("create_time")),
    ] {
        world
            .refused(format!("UPDATE api_keys SET {change}"), "never change")
            .await;
    }
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn a_revoked_key_cannot_be_revived(world: World) {
    let dead = world.plain("dead").await.id;
    let ending = world.plain("ending").await.id;
    let replaced = world.plain("replaced").await.id;
    world.revoke(kill(dead)).await;
    world.revoke(end(ending, DAY)).await;
    world
        .revoke(replace(replaced, world.successor(), DAY))
        .await;
    let head = world.head().await;
    let other = world.bytes(&[5; 16]);
    for id in [dead, ending, replaced] {
        let before = world.record(id).await;
        for change in [
            "revoke_time = NULL",
            "revoke_time = NULL, revoke_reason = NULL, replaced_by = NULL",
            &format!("revoke_time = {}", world.a_tick_after("revoke_time")),
            &format!("replaced_by = {other}"),
        ] {
            let sql = format!(
                "UPDATE api_keys SET {change} WHERE key_id = {}",
                world.id(id)
            );
            world.refused(sql, "a revoked key stays revoked").await;
        }
        assert_eq!(world.record(id).await, before);
    }
    let sql = format!(
        "UPDATE api_keys SET replaced_by = NULL WHERE key_id = {}",
        world.id(replaced)
    );
    world.refused(sql, "a revoked key stays revoked").await;
    assert_eq!(world.head().await, head);
}

pub(crate) async fn a_revocation_by_hand_is_a_fact_when_its_time_has_come(world: World) {
    let key = world.plain("42").await;
    let token = world.token("bot").await;
    let later = world.time(world.now().await.plus(DAY).as_micros());
    let facts = async || {
        let key = world.record(key.id).await.revoked;
        (key, world.tokens().await[0].revoked)
    };
    for (change, is_fact) in [
        (format!("revoke_time = {later}"), false),
        ("name = name, changed_by = NULL".to_owned(), false),
        ("revoke_time = create_time".to_owned(), true),
    ] {
        for table in ["api_keys", "caller_tokens"] {
            world.by_hand(&format!("UPDATE {table} SET {change}")).await;
        }
        assert_eq!(facts().await, (is_fact, is_fact), "{change}");
    }
    for (table, message) in [
        ("api_keys", "a revoked key stays revoked"),
        ("caller_tokens", "a revoked token stays revoked"),
    ] {
        world
            .refused(format!("UPDATE {table} SET revoked = FALSE"), message)
            .await;
    }
    let other = world.plain("other").await;
    let sql = format!(
        "UPDATE api_keys SET revoked = TRUE WHERE key_id = {}",
        world.id(other.id)
    );
    assert!(
        world.try_by_hand(&sql).await.is_err(),
        "without a revoke_time"
    );
    let head = world.head().await;
    world
        .by_hand(&sql.replace("SET", &format!("SET revoke_time = {later},")))
        .await;
    assert!(world.record(other.id).await.revoked, "before its time");
    assert_eq!(world.head().await, head + 1);

    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let sql = copy("INSERT", &world.id(key.id), &id, &digest, "'born'")
        .replace("create_time)", "create_time, revoke_time)")
        .replace("create_time FROM", "create_time, create_time FROM");
    assert_eq!(world.by_hand(&sql).await, 1);
    assert!(world.record(KeyId::from_bytes([5; 16])).await.revoked);
    assert_eq!(token.id, world.tokens().await[0].id);
}

pub(crate) async fn a_slot_holds_one_key_without_revoke_time(world: World) {
    let key = world.plain("42").await;
    let from = world.id(key.id);
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let sql = copy("INSERT", &from, &id, &digest, "name");
    assert!(world.try_by_hand(&sql).await.is_err());
    world.revoke(end(key.id, DAY)).await;
    assert_eq!(
        world.by_hand(&sql).await,
        1,
        "the slot is free during a grace"
    );
}

pub(crate) async fn a_replacing_insert_is_refused(world: World) {
    let new = world.plain_key("42", "default");
    let key = world.issue(new.clone()).await;
    let gone = world.issue(world.plain_key("42", "gone")).await;
    world.revoke(kill(gone.id)).await;
    let before = world.tail(0).await;
    let (own_id, own_digest) = (world.id(key.id), world.bytes(new.digest.as_bytes()));
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    for insert in ["INSERT OR REPLACE", "REPLACE"] {
        for sql in [
            copy(insert, &own_id, &own_id, &digest, "'other'"),
            copy(insert, &own_id, &id, &own_digest, "'other'"),
            copy(insert, &own_id, &id, &digest, "name"),
            copy(
                insert,
                &world.id(gone.id),
                &world.id(gone.id),
                &digest,
                "name",
            ),
        ] {
            world
                .refused(sql, "a key with this key_id, digest or slot exists")
                .await;
        }
        for sql in [
            "INTO key_changes SELECT revision, randomblob(8), key_id, kind, actor, reason, time
               FROM key_changes WHERE revision = 1",
            "INTO log_head VALUES (1, 0)",
            "INTO log_head VALUES (1, 9)",
            "INTO log_state VALUES (1, 0, 1)",
            "INTO store_clock VALUES (1, 0)",
        ] {
            assert!(
                world.try_by_hand(&format!("{insert} {sql}")).await.is_err(),
                "{sql}"
            );
        }
    }
    let after = world.tail(0).await;
    assert_eq!((after.rows, after.epoch), (before.rows, before.epoch));
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(
        world.revoke(kill(key.id)).await.committed.revision,
        before.head + 1
    );
}

pub(crate) async fn the_sealed_copy_is_wiped_in_the_same_transaction(world: World) {
    let new = NewKey {
        sealed: Some(sealed(1)),
        ..world.plain_key("42", "default")
    };
    let key = world.issue(new).await;
    let mut hand = world.connect().await;
    hand.run("BEGIN").await.unwrap();
    hand.run("UPDATE api_keys SET revoke_time = create_time")
        .await
        .unwrap();
    let kept = "SELECT hint FROM api_keys WHERE sealed IS NOT NULL";
    assert!(hand.read(kept).await.is_empty(), "wiped before the commit");
    hand.run("ROLLBACK").await.unwrap();
    let StoredKey { record, sealed } = world.get(key.id).await;
    assert_eq!((record, sealed), (key, Some(self::sealed(1))));
}

pub(crate) async fn the_log_cannot_be_rewritten(world: World) {
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    let before = world.tail(0).await;
    let mark = world.bytes(&[5; 8]);
    let id = world.bytes(&[5; 16]);
    for change in [
        format!("mark = {mark}"),
        "revision = revision + 5".to_owned(),
        format!("key_id = {id}"),
        "actor = 'nobody'".to_owned(),
        format!("time = {}", world.a_tick_after("time")),
    ] {
        world
            .refused(
                format!("UPDATE key_changes SET {change}"),
                "cannot be rewritten",
            )
            .await;
    }
    for rows in ["", " WHERE revision = 0", " WHERE revision = 1"] {
        world
            .refused(format!("DELETE FROM key_changes{rows}"), "may be trimmed")
            .await;
    }
    let after = world.tail(0).await;
    assert_eq!(after.rows, before.rows);
    assert_eq!(after.mark_at_applied, before.mark_at_applied);
}

pub(crate) async fn a_row_inserted_into_the_log_leaves_no_gap(world: World) {
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    let insert = |revision: u64, id: &str| {
        let mark = world.bytes(&[5; 8]);
        format!(
            "INSERT INTO key_changes (revision, mark, key_id, kind, time)
             SELECT {revision}, {mark}, {id}, 'update', time FROM key_changes WHERE revision = 0"
        )
    };
    let id = world.bytes(&[5; 16]);
    for sql in [insert(3, &id), insert(7, &id), insert(2, "NULL")] {
        assert!(world.try_by_hand(&sql).await.is_err(), "{sql}");
    }
    // With the next revision, the row is refused or counts as one more change.
    let added = world.try_by_hand(&insert(2, &id)).await.unwrap_or(0);
    let other = world.plain("other").await;
    let last = world.revoke(kill(other.id)).await.committed;
    let page = world.tail(0).await;
    assert_eq!((last.revision, page.head), (2 + added, 2 + added));
    assert!(page.rows.iter().map(|row| row.revision).eq(1..=page.head));
}

pub(crate) async fn the_counter_of_the_log_cannot_be_changed(world: World) {
    let key = world.plain("42").await;
    for sql in [
        "UPDATE log_head SET revision = revision + 1",
        "UPDATE log_head SET revision = revision - 1",
        "UPDATE log_head SET revision = 100",
        "DELETE FROM log_head",
        "INSERT INTO log_head SELECT * FROM log_head",
    ] {
        assert!(world.try_by_hand(sql).await.is_err(), "{sql}");
    }
    assert_eq!(world.revoke(kill(key.id)).await.committed.revision, 1);
}

pub(crate) async fn the_state_of_the_log_only_rises(world: World) {
    let key = world.plain("42").await;
    world.revoke(kill(key.id)).await;
    world.clock.pass(2 * DAY);
    world.trim().await;
    let before = world.tail(1).await;
    for sql in [
        "UPDATE log_state SET pruned_to = pruned_to - 1",
        "UPDATE log_state SET pruned_to = pruned_to + 1",
        "UPDATE log_state SET incarnation = incarnation - 1",
    ] {
        world.refused(sql, "log_state only rises").await;
    }
    assert!(world.try_by_hand("DELETE FROM log_state").await.is_err());
    let after = world.tail(1).await;
    assert_eq!(
        (after.pruned_to, after.epoch),
        (before.pruned_to, before.epoch)
    );
}

pub(crate) async fn the_time_of_the_store_never_falls(world: World) {
    world.plain("42").await;
    let before = world.now().await;
    let lowered = "UPDATE store_clock SET newest = newest - 1, lowered = lowered + 1";
    let grace = world.plain("grace").await;
    world.revoke(end(grace.id, DAY)).await;
    for sql in [
        "UPDATE store_clock SET newest = newest - 1",
        lowered,
        "DELETE FROM store_clock",
    ] {
        assert!(world.try_by_hand(sql).await.is_err(), "{sql}");
    }
    assert_eq!(world.now().await, before);
    world.revoke(kill(grace.id)).await;
    assert_eq!(world.by_hand(lowered).await, 1, "no grace runs");
    world.plain("another").await;
}
