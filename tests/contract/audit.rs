//! The audit: one permanent entry for each change, in the same commit.

use std::time::Duration;

use keyward_store::{Actor, AuditAction, AuditEntry, Import, KeyTarget, Revocation};

use crate::world::{DAY, World, account, actor, batch, disabled, end, kill, kill_all, replace};

pub(crate) async fn an_audit_entry_is_stored_completely(world: World) {
    let key = world.successor().id;
    let entry = AuditEntry {
        action: AuditAction::Reveal,
        id: Some(key),
        account: Some(account("42")),
        detail: Some("again".to_owned()),
    };
    world.store.record(entry.clone(), &actor()).await.unwrap();
    let bare = AuditEntry {
        id: None,
        account: None,
        detail: None,
        ..entry
    };
    world.store.record(bare, &Actor::service()).await.unwrap();
    let world = world.abandoned_and_reopened().await;
    assert_eq!(
        world.audit().await,
        ["reveal bot again", "reveal keyward -"]
    );
    let (subject, caller) = (world.id(key), world.id(actor().token.unwrap()));
    let whole =
        format!("audit WHERE subject_id = {subject} AND actor_id = {caller} AND account_id = '42'");
    assert_eq!(world.count(&whole).await, 1);
    let empty = "audit WHERE subject_id IS NULL AND actor_id IS NULL AND account_id IS NULL";
    assert_eq!(world.count(empty).await, 1);
}

pub(crate) async fn each_change_has_an_audit_entry(world: World) {
    let key = world.plain("42").await;
    world.update(key.id, disabled(true)).await;
    let successor = world.successor();
    world.revoke(replace(key.id, successor.clone(), DAY)).await;
    world.revoke(end(key.id, Duration::from_secs(1))).await;
    world.revoke(kill_all("42")).await;
    let token = world.token("cli").await;
    world.revoke_token(token.id).await;
    let lines = [
        "issue bot -".to_owned(),
        "update bot -".to_owned(),
        format!("replace bot replaced_by={}", successor.id),
        format!("issue bot replaces={}", key.id),
        "revoke bot -".to_owned(),
        "revoke bot with its account".to_owned(),
        "revoke bot with its account".to_owned(),
        "token_create bot name=cli roles=issuer,verifier,revealer,reader,editor,reporter,admin,auditor,near_cache"
            .to_owned(),
        "token_revoke bot -".to_owned(),
    ];
    assert_eq!(world.audit().await, lines);
    for (id, lines) in [(key.id, 5), (token.id, 2)] {
        let of = format!("audit WHERE subject_id = {}", world.id(id));
        assert_eq!(world.count(&of).await, lines);
    }
    assert_eq!(world.count("audit WHERE account_id = '42'").await, 7);
    let caller = world.id(actor().token.unwrap());
    assert_eq!(
        world
            .count(&format!("audit WHERE actor_id = {caller}"))
            .await,
        9
    );
}

pub(crate) async fn a_call_without_effect_has_no_audit_entry(world: World) {
    let key = world.plain("42").await;
    world.issue_or_get(world.plain_key("42", "default")).await;
    world.update(key.id, disabled(false)).await;
    world.revoke(kill(key.id)).await;
    world.revoke(replace(key.id, world.successor(), DAY)).await;
    world.revoke(kill_all("42")).await;
    world.store.revoke_token(key.id, &actor()).await.unwrap();
    let target = KeyTarget::Digests(vec![world.digest()]);
    let unknown = Revocation::Key {
        target,
        successor: None,
        grace: Duration::ZERO,
        reason: None,
    };
    world.try_revoke(unknown).await;
    assert_eq!(world.audit().await, ["issue bot -", "revoke bot -"]);
}

pub(crate) async fn a_change_fails_if_its_audit_entry_cannot_be_written(world: World) {
    let (key, token) = (world.plain("42").await, world.token("bot").await);
    world
        .by_hand("ALTER TABLE audit RENAME TO audit_elsewhere")
        .await;
    let (store, actor) = (&world.store, &actor());
    assert!(
        store
            .issue(world.plain_key("new", "default"), actor)
            .await
            .is_err()
    );
    assert!(store.update(key.id, disabled(true), actor).await.is_err());
    let import = Import {
        batch: batch(1),
        keys: vec![world.imported_key("new", "default")],
        dry_run: false,
    };
    assert!(store.import(import, actor).await.is_err());
    let call = replace(key.id, world.successor(), Duration::ZERO);
    assert!(store.revoke(call, actor).await.is_err());
    assert!(store.revoke(kill_all("42"), actor).await.is_err());
    assert!(
        store
            .create_token(world.new_token("new"), actor)
            .await
            .is_err()
    );
    assert!(store.revoke_token(token.id, actor).await.is_err());
    world
        .by_hand("ALTER TABLE audit_elsewhere RENAME TO audit")
        .await;
    assert_eq!(world.count("api_keys").await, 1);
    assert_eq!(world.record(key.id).await, key);
    assert_eq!(
        store.list_tokens(true, None, None, 10).await.unwrap(),
        [token]
    );
    assert_eq!(world.head().await, 0);
    assert_eq!(world.revoke(kill(key.id)).await.committed.revision, 1);
}

pub(crate) async fn an_audit_entry_cannot_be_changed(world: World) {
    world.plain("42").await;
    world
        .refused(
            "UPDATE audit SET actor = 'nobody'",
            "audit cannot be rewritten",
        )
        .await;
    world
        .refused("UPDATE audit SET id = id + 1", "audit cannot be rewritten")
        .await;
    assert_eq!(world.audit().await, ["issue bot -"]);
}

pub(crate) async fn a_replacing_insert_is_refused(world: World) {
    world.plain("42").await;
    let replaced = "INSERT OR REPLACE INTO audit (id, time, actor, action)
                    SELECT id, time, 'nobody', action FROM audit";
    world.refused(replaced, "audit cannot be rewritten").await;
    assert_eq!(world.audit().await, ["issue bot -"]);
}
