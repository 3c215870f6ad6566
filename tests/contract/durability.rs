//! Answered changes survive when the store is opened again.

use std::time::Duration;

use keyward_core::fence::{Change, Mark};
use keyward_core::key::{KeyRecord, TokenRecord};
use keyward_crypto::{CheckValue, KeyKind};
use keyward_store::{AuditAction, AuditEntry, KnownKey, ListKeys};

use crate::world::{DAY, World, account, actor, disabled, kill, replace, sealed};

/// Everything in a store.
#[derive(Debug, PartialEq)]
struct Contents {
    keys: Vec<(KeyRecord, Option<Vec<u8>>)>,
    tokens: Vec<TokenRecord>,
    log: (u64, Mark, Vec<Change>),
    checks: Vec<KnownKey>,
    audit: Vec<String>,
}

async fn contents(world: &World) -> Contents {
    let query = ListKeys {
        account: Some(account("42")),
        include_revoked: true,
        limit: 1_000,
        ..ListKeys::default()
    };
    let mut keys = Vec::new();
    for record in world.listed(query).await {
        let sealed = world.get(record.id).await.sealed;
        keys.push((record, sealed.map(|sealed| sealed.as_bytes().to_vec())));
    }
    let page = world.tail(0).await;
    Contents {
        keys,
        tokens: world
            .store
            .list_tokens(true, None, None, 1_000)
            .await
            .unwrap(),
        log: (page.pruned_to, page.head_mark, page.rows),
        checks: world.store.known_keys().await.unwrap(),
        audit: world.audit().await,
    }
}

/// Stores at least one row of each kind.
async fn fill(world: &World) {
    let check = CheckValue {
        kind: KeyKind::Seal,
        number: 1,
        value: [7; 16],
    };
    world.store.add_check_values(&[check]).await.unwrap();
    world.issue(world.full_key("42", "recoverable").await).await;
    let updated = world.issue(world.plain_key("42", "updated")).await;
    world.update(updated.id, disabled(true)).await;
    let replaced = world.issue(world.full_key("42", "replaced").await).await;
    let successor = keyward_store::Successor {
        sealed: Some(sealed(3)),
        ..world.successor()
    };
    world.revoke(replace(replaced.id, successor, DAY)).await;
    let dead = world.issue(world.plain_key("42", "dead")).await;
    world.revoke(kill(dead.id)).await;
    world.clock.pass(Duration::from_secs(2));
    world.token("bot").await;
    let token = world.token("old").await;
    world.revoke_token(token.id).await;
    let entry = AuditEntry {
        action: AuditAction::Reveal,
        id: Some(dead.id),
        account: None,
        detail: None,
    };
    world.store.record(entry, &actor()).await.unwrap();
}

pub(crate) async fn everything_survives_a_reopening(world: World) {
    fill(&world).await;
    let before = contents(&world).await;
    assert_eq!(
        (before.keys.len(), before.tokens.len(), before.log.2.len()),
        (5, 2, 4)
    );
    let world = world.reopened().await;
    assert_eq!(contents(&world).await, before);
    assert_eq!(world.head().await, 4);
    assert_log_continues(&world).await;
}

pub(crate) async fn answered_changes_survive_without_a_clean_close(world: World) {
    fill(&world).await;
    let before = contents(&world).await;
    let world = world.abandoned_and_reopened().await;
    assert_eq!(contents(&world).await, before);
    assert_log_continues(&world).await;
}

/// Asserts that the log continues after its head.
async fn assert_log_continues(world: &World) {
    let head = world.head().await;
    let key = world.plain("after").await;
    assert_eq!(
        world.revoke(kill(key.id)).await.committed.revision,
        head + 1
    );
}
