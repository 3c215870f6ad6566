//! Columns that manual SQL cannot set: the sealed copy of a dead key, and the last change of a row.

use keyward_store::NewKey;

use crate::world::{DAY, World, disabled, end, kill, sealed};

/// SQL that inserts a recoverable key with additional columns.
fn insert_with(world: &World, columns: &str, values: &str) -> String {
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let time = world.time(1);
    format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time, {columns})
         VALUES ({id}, {digest}, 1, '42', 'x', '', '[]', '{{}}', '[]', TRUE, {time}, {values})"
    )
}

pub(crate) async fn a_revoked_key_gets_no_sealed_copy(world: World) {
    let copy = world.bytes(sealed(1).as_bytes());
    let mut ids = Vec::new();
    for name in ["dead", "ending", "now"] {
        let new = world.plain_key("42", name);
        let sealed = Some(sealed(1));
        ids.push(world.issue(NewKey { sealed, ..new }).await.id);
    }
    world.revoke(kill(ids[0])).await;
    world.revoke(end(ids[1], DAY)).await;
    let set = |change: &str, id| {
        let id = world.id(id);
        format!("UPDATE api_keys SET {change}sealed = {copy} WHERE key_id = {id}")
    };
    for id in &ids[..2] {
        world.refused(set("", *id), "keeps no sealed copy").await;
    }
    world
        .by_hand(&set("revoke_time = create_time, ", ids[2]))
        .await;
    let values = format!("{}, {copy}", world.time(1));
    let insert = insert_with(&world, "revoke_time, sealed", &values);
    world.refused(insert, "nor a seal for a revoked key").await;
    assert_eq!(world.count("api_keys WHERE sealed IS NOT NULL").await, 0);
}

pub(crate) async fn the_last_change_of_a_key_is_not_set_by_hand(world: World) {
    let key = world.plain("42").await;
    let other = world.plain("other").await;
    world.update(key.id, disabled(true)).await;
    let (before, _) = world.update(key.id, disabled(false)).await;
    world.update(other.id, disabled(true)).await;
    let mark = world.bytes(&[5; 8]);
    let at = |revision| {
        let mark = format!("(SELECT mark FROM key_changes WHERE revision = {revision})");
        format!("revision = {revision}, mark = {mark}")
    };
    for change in [
        "revision = revision + 1",
        "revision = 0, mark = NULL",
        &format!("mark = {mark}"),
        // An earlier change of this key, and the last change of another key.
        &at(1),
        &at(3),
    ] {
        let id = world.id(key.id);
        let sql = format!("UPDATE api_keys SET {change} WHERE key_id = {id}");
        world.refused(sql, "written by the triggers alone").await;
    }
    for (column, value) in [("revision", "1"), ("mark", &mark), ("changed_by", "'bot'")] {
        let insert = insert_with(&world, column, value);
        world.refused(insert, "are not for an INSERT").await;
    }
    assert_eq!(world.record(key.id).await, before);
    assert_eq!(world.update(key.id, disabled(false)).await.1.revision, 2);
}

pub(crate) async fn the_last_change_of_a_token_is_not_set_by_hand(world: World) {
    let token = world.token("bot").await;
    let revoked = world.revoke_token(token.id).await;
    let mark = world.bytes(&[5; 8]);
    for change in [
        "revision = revision + 1",
        "revision = 0, mark = NULL",
        &format!("mark = {mark}"),
    ] {
        let sql = format!("UPDATE caller_tokens SET {change}");
        world.refused(sql, "written by the triggers alone").await;
    }
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let time = world.time(1);
    for (column, value) in [("revision", "1"), ("mark", &mark), ("changed_by", "'bot'")] {
        let sql = format!(
            "INSERT INTO caller_tokens
                 (token_id, digest, generation, name, roles, create_time, {column})
             VALUES ({id}, {digest}, 1, 'x', 'admin', {time}, {value})"
        );
        world
            .refused(sql, "revision, mark or changed_by were given")
            .await;
    }
    let again = world.revoke_token(token.id).await;
    assert_eq!(
        again.committed, revoked.committed,
        "a repeated call waits for the first change"
    );
}
