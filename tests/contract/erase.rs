//! The erasure of an account: no personal data stays on its keys or in the audit.

use keyward_core::key::{Metadata, Networks};
use keyward_store::{Erasure, Revocation, Selection};

use crate::world::{World, account, actor, disabled, kill, kill_all, reason, slot};

pub(crate) async fn erase(world: &World, of: &str, pseudonym: &str) -> Erasure {
    let (of, pseudonym) = (account(of), account(pseudonym));
    let erased = world.store.erase_account(&of, &pseudonym, &actor()).await;
    erased.unwrap()
}

async fn revoke_for_a_reason(world: &World, of: &str) {
    let revocation = Revocation::Selection {
        selection: Selection::Account(account(of)),
        reason: reason("she asked for it"),
    };
    world.revoke(revocation).await;
}

pub(crate) async fn an_erased_account_leaves_no_personal_data(world: World) {
    let other = world.issue(world.full_key("43", "home").await).await;
    let mut keys = Vec::new();
    for name in ["home", "work"] {
        let key = world.issue(world.full_key("42", name).await).await;
        keys.push(world.update(key.id, disabled(false)).await.0);
    }
    world.replace(keys[0].id).await;
    revoke_for_a_reason(&world, "42").await;
    let head = world.head().await;
    let erased = erase(&world, "42", "erased-1").await;
    assert_eq!((erased.count, erased.is_complete), (3, true));
    assert_eq!(erased.pseudonym, Some(account("erased-1")));
    assert_eq!(world.head().await, head + 3, "each is a logged change");
    assert_eq!(erased.committed.revision, head + 3);
    for key in &keys {
        let after = world.record(key.id).await;
        assert_eq!(
            (&after.account, &after.name),
            (&account("erased-1"), &slot("erased-1"))
        );
        assert_eq!(
            (&after.metadata, &after.networks),
            (&Metadata::default(), &Networks::default())
        );
        assert_eq!((after.revoke_reason, after.revoked), (None, true));
        assert_eq!(
            (after.hint, after.scopes),
            (key.hint.clone(), key.scopes.clone())
        );
    }
    assert_eq!(world.record(other.id).await, other);
    for text in ["42", "home", "payments", "she asked"] {
        let keys = format!(
            "api_keys WHERE account_id = '{text}' OR revoke_reason LIKE '%{text}%' OR
             (account_id <> '43' AND (name = '{text}' OR CAST(metadata AS TEXT) LIKE '%{text}%'))"
        );
        assert_eq!(world.count(&keys).await, 0, "{text}");
    }
    assert_eq!(world.count("audit WHERE account_id = '42'").await, 0);
    assert_eq!(world.count("audit WHERE account_id = '43'").await, 1);
    // Two issued, replaced with a successor, two revoked with the account, and the erasure itself.
    assert_eq!(world.count("audit WHERE account_id = 'erased-1'").await, 7);
    assert_eq!(world.audit().await.last().unwrap(), "account_erase bot -");
    assert_eq!(world.count("erasures").await, 0);

    let again = erase(&world, "42", "erased-2").await;
    assert_eq!(
        (again.count, again.is_complete, again.pseudonym),
        (0, true, None)
    );
}

pub(crate) async fn a_key_that_is_not_revoked_is_not_erased(world: World) {
    let dead = world.issue(world.plain_key("42", "dead")).await;
    world.revoke(kill(dead.id)).await;
    let live = world.issue(world.plain_key("42", "live")).await;
    let erased = erase(&world, "42", "erased-1").await;
    assert_eq!((erased.count, erased.is_complete), (1, false));
    assert_eq!(world.record(live.id).await, live);
    // A later call completes the erasure under the same pseudonym.
    world.revoke(kill_all("42")).await;
    let erased = erase(&world, "42", "erased-2").await;
    assert_eq!((erased.count, erased.is_complete), (1, true));
    for key in [dead, live] {
        assert_eq!(world.record(key.id).await.account, account("erased-1"));
    }
}

pub(crate) async fn a_large_account_is_erased_in_steps(world: World) {
    let key = world.issue(world.full_key("42", "default").await).await;
    world.revoke(kill(key.id)).await;
    let (id, digest) = world.random_bytes();
    let rows = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1100)";
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time, revoke_time, revoked)
         {rows} SELECT {id}, {digest}, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time, revoke_time, revoked FROM api_keys, n"
    );
    world.by_hand(&more).await;
    let erased = erase(&world, "42", "erased-1").await;
    assert_eq!((erased.count, erased.is_complete), (1_101, true));
    assert_eq!(world.count("api_keys WHERE account_id = '42'").await, 0);
}

pub(crate) async fn only_an_erasure_changes_the_account_of_a_key(world: World) {
    let (dead, live) = (world.plain("42").await, world.plain("43").await);
    world.revoke(kill(dead.id)).await;
    let begun = "INSERT INTO erasures (account_id, pseudonym) VALUES ('42', 'erased-1'), ('43', 'erased-2')";
    let set = |of: &str, to: &str| {
        format!("UPDATE api_keys SET account_id = '{to}', name = '{to}' WHERE account_id = '{of}'")
    };
    world.refused(set("42", "erased-1"), "never change").await;
    world.by_hand(begun).await;
    for sql in [
        set("43", "erased-2"),
        set("42", "erased-2"),
        set("42", "other"),
        "UPDATE api_keys SET account_id = 'erased-1' WHERE account_id = '42'".to_owned(),
        "UPDATE api_keys SET name = 'erased-1' WHERE account_id = '42'".to_owned(),
    ] {
        world.refused(sql, "never change").await;
    }
    for change in [
        "actor = 'x', account_id = 'erased-1'",
        "account_id = 'other'",
    ] {
        let sql = format!("UPDATE audit SET {change} WHERE account_id = '42'");
        world.refused(sql, "audit cannot be rewritten").await;
    }
    world.by_hand(&set("42", "erased-1")).await;
    assert_eq!(world.record(live.id).await, live);
    assert_eq!(world.record(dead.id).await.account, account("erased-1"));
}
