//! Callers' tokens, which share the log with keys.

use std::time::Duration;

use keyward_core::key::{Role, San, TokenRecord};
use keyward_crypto::Digest;
use keyward_store::{Expiry, NewToken};

use crate::world::{DAY, HOUR, World, actor, assert_damaged, disabled, slot};

pub(crate) async fn a_token_is_stored_completely(world: World) {
    assert!(!world.has_tokens().await);
    let roles = [Role::Issuer, Role::Revealer].into_iter().collect();
    let new = NewToken {
        roles,
        ..world.new_token("bot")
    };
    let token = world.create_token(new.clone()).await;
    let create_time = world.now().await;
    let expected = TokenRecord {
        id: new.id,
        name: slot("bot"),
        roles,
        san: None,
        create_time,
        expire_time: None,
        revoke_time: None,
        revoked: false,
        revision: 0,
    };
    assert_eq!(token, expected);
    let found = world.find_token(&new.digest).await;
    assert_eq!((found.record, found.stamp.revision), (Some(expected), 0));
    assert!(world.has_tokens().await);
}

pub(crate) async fn an_absent_token_has_the_stamp_of_the_head(world: World) {
    let token = world.token("bot").await;
    world.revoke_token(token.id).await;
    let found = world.find_token(&world.digest()).await;
    assert_eq!((found.record, found.stamp.revision), (None, 1));
    assert_eq!(found.stamp.epoch, world.tail(0).await.epoch);
}

pub(crate) async fn a_token_is_revoked_once(world: World) {
    let new = world.new_token("bot");
    world.create_token(new.clone()).await;
    let first = world.revoke_token(new.id).await;
    assert_eq!(first.record.revoke_time, Some(world.now().await));
    let page = world.tail(0).await;
    assert_eq!((page.head, page.rows[0].id), (1, new.id));
    assert_eq!(
        (first.committed.revision, first.committed.mark),
        (1, Some(page.head_mark))
    );
    world.clock.pass(HOUR);
    let again = world.revoke_token(new.id).await;
    assert_eq!(
        (&again.record, again.committed),
        (&first.record, first.committed)
    );
    let found = world.find_token(&new.digest).await;
    assert_eq!(
        (found.record, found.stamp.revision),
        (Some(first.record), 1)
    );
    assert_eq!(world.audit().await.len(), 2);
}

pub(crate) async fn a_token_with_a_later_end_is_revoked_at_once(world: World) {
    let token = world.token("bot").await;
    let later = world.time(world.now().await.plus(HOUR).as_micros());
    let sql = format!("UPDATE caller_tokens SET revoke_time = {later}");
    world.by_hand(&sql).await;
    assert_eq!(
        world
            .store
            .list_tokens(false, None, None, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(world.has_admin().await, "the token lives");
    let revoked = world.revoke_token(token.id).await;
    assert_eq!(revoked.record.revoke_time, Some(world.now().await));
    assert_eq!(revoked.committed.revision, 2);
    assert!(!world.has_admin().await);
}

pub(crate) async fn an_unknown_token_is_none(world: World) {
    let key = world.plain("42").await;
    for id in [world.successor().id, key.id] {
        assert!(
            world
                .store
                .revoke_token(id, &actor())
                .await
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn tokens_and_keys_share_one_log(world: World) {
    let (key, token) = (world.plain("42").await, world.token("bot").await);
    world.update(key.id, disabled(true)).await;
    world.revoke_token(token.id).await;
    world.update(key.id, disabled(false)).await;
    let page = world.tail(0).await;
    let logged: Vec<_> = page.rows.iter().map(|row| (row.revision, row.id)).collect();
    assert_eq!(logged, [(1, key.id), (2, token.id), (3, key.id)]);
}

pub(crate) async fn tokens_are_listed_page_by_page_in_order_of_creation(world: World) {
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(world.token("bot").await);
    }
    all[1] = world.revoke_token(all[1].id).await.record;
    let list = async |revoked, after: Option<&TokenRecord>, limit| {
        world
            .store
            .list_tokens(revoked, None, after.map(|token| token.id), limit)
            .await
            .unwrap()
    };
    assert_eq!(list(true, None, 100).await, all);
    assert_eq!(list(true, None, 2).await, all[..2]);
    assert_eq!(list(true, Some(&all[1]), 2).await, all[2..4]);
    assert_eq!(list(true, Some(&all[3]), 2).await, all[4..]);
    assert!(list(true, Some(&all[4]), 2).await.is_empty());
    assert_eq!(list(false, None, 2).await, [all[0].clone(), all[2].clone()]);
}

pub(crate) async fn a_token_expires_by_the_time_of_the_store(world: World) {
    let (own, ttl) = (world.now().await.plus(DAY), HOUR);
    for (expiry, end) in [
        (Expiry::At(own), own),
        (Expiry::After(ttl), world.now().await.plus(ttl)),
    ] {
        let new = NewToken {
            expiry,
            ..world.new_token("bot")
        };
        let token = world.create_token(new.clone()).await;
        assert_eq!(token.expire_time, Some(end));
        assert_eq!(world.find_token(&new.digest).await.record, Some(token));
    }
    assert!(world.has_admin().await);
    world.clock.pass(HOUR);
    assert!(world.has_admin().await, "one of them lives on");
    world.clock.pass(DAY);
    assert!(!world.has_admin().await);
    let listed = world
        .store
        .list_tokens(false, None, None, 10)
        .await
        .unwrap();
    assert_eq!(listed.len(), 2, "an expired token is not a revoked one");
    assert_eq!(world.head().await, 0);
}

pub(crate) async fn tokens_that_expired_long_ago_can_be_left_out(world: World) {
    let with = async |expiry| {
        let new = world.new_token("bot");
        world.create_token(NewToken { expiry, ..new }).await
    };
    let early = with(Expiry::After(HOUR)).await;
    let late = with(Expiry::After(3 * HOUR)).await;
    let forever = with(Expiry::Never).await;
    let list = async |within| {
        let listed = world.store.list_tokens(false, Some(within), None, 10).await;
        listed.unwrap()
    };
    let all = [early, late, forever];
    assert_eq!(list(Duration::ZERO).await, all);
    world.clock.pass(2 * HOUR);
    assert_eq!(list(2 * HOUR).await, all);
    assert_eq!(list(HOUR).await, all[1..], "one that expired at this time");
    world.clock.pass(2 * HOUR);
    assert_eq!(list(Duration::ZERO).await, all[2..]);
    assert_eq!(
        world
            .store
            .list_tokens(false, None, None, 10)
            .await
            .unwrap(),
        all
    );
}

pub(crate) async fn a_name_of_a_certificate_is_free_again_after_its_revocation(world: World) {
    let san = San::new("san", "spiffe://corp/billing").unwrap();
    let digest = Digest::of_san(&san);
    let named = || NewToken {
        digest,
        generation: None,
        san: Some(san.clone()),
        ..world.new_token("billing")
    };
    let first = world.create_token(named()).await;
    assert_eq!(first.san.as_ref(), Some(&san));
    assert_eq!(
        world.find_token(&digest).await.record.as_ref(),
        Some(&first)
    );
    let taken = world.store.create_token(named(), &actor()).await;
    assert_eq!(taken.unwrap(), None);

    let revoked = world.revoke_token(first.id).await.record;
    let found = world.find_token(&digest).await;
    assert_eq!((found.record, found.stamp.revision), (None, 1));
    let second = world.create_token(named()).await;
    assert_eq!(
        world.find_token(&digest).await.record.as_ref(),
        Some(&second)
    );
    assert_eq!(world.tokens().await, [revoked, second]);
    let needs = world.store.keyring_use().await.unwrap().needs;
    assert!(
        needs.iter().all(|(_, needs)| needs.tokens == 0),
        "{needs:?}"
    );
}

pub(crate) async fn has_tokens_stays_true_after_a_revocation(world: World) {
    let token = world.token("admin").await;
    world.revoke_token(token.id).await;
    assert!(
        world.has_tokens().await,
        "the first token is created only once"
    );
}

pub(crate) async fn has_admin_is_true_until_the_last_admin_is_revoked(world: World) {
    let admin = |name| NewToken {
        roles: [Role::Admin, Role::Reader].into_iter().collect(),
        ..world.new_token(name)
    };
    let reader = NewToken {
        roles: [Role::Reader].into_iter().collect(),
        ..world.new_token("reader")
    };
    world.create_token(reader).await;
    assert!(!world.has_admin().await);
    let (one, two) = (admin("one"), admin("two"));
    for new in [&one, &two] {
        let made = world.store.create_token(new.clone(), &actor()).await;
        made.unwrap();
    }
    for (id, left) in [(one.id, true), (two.id, false)] {
        world.store.revoke_token(id, &actor()).await.unwrap();
        assert_eq!(world.has_admin().await, left);
    }
}

pub(crate) async fn ids_and_digests_are_unique(world: World) {
    let first = world.new_token("bot");
    let record = world.create_token(first.clone()).await;
    let other = world.new_token("bot");
    let same_id = NewToken {
        id: first.id,
        ..other.clone()
    };
    assert_damaged(&world.store.create_token(same_id, &actor()).await);
    let same_digest = NewToken {
        digest: first.digest,
        ..other
    };
    let again = async |new| world.store.create_token(new, &actor()).await.unwrap();
    assert_eq!(again(same_digest.clone()).await, None);
    world.revoke_token(record.id).await;
    assert_eq!(
        again(same_digest).await,
        None,
        "a revoked secret never returns"
    );
    let record = world.find_token(&first.digest).await.record.unwrap();
    assert!(record.revoked);
    assert_eq!(world.tokens().await, [record]);
}

pub(crate) async fn a_change_by_hand_is_logged(world: World) {
    let token = world.token("bot").await;
    world
        .by_hand("UPDATE caller_tokens SET changed_by = 'somebody'")
        .await;
    assert_eq!(
        world.head().await,
        0,
        "changed_by is not part of the record"
    );
    world
        .by_hand("UPDATE caller_tokens SET changed_by = NULL")
        .await;
    for (revision, sql) in (1..).zip([
        "UPDATE caller_tokens SET roles = 'verifier'",
        "UPDATE caller_tokens SET name = 'other'",
        "UPDATE caller_tokens SET expire_time = create_time",
        "UPDATE caller_tokens SET revoke_time = create_time",
        "DELETE FROM caller_tokens",
    ]) {
        world.by_hand(sql).await;
        let page = world.tail(revision - 1).await;
        assert_eq!((page.head, page.rows[0].id), (revision, token.id), "{sql}");
        if let [record] = &world.tokens().await[..] {
            assert_eq!(record.revision, revision);
        }
    }
    assert!(!world.has_tokens().await);
    assert_eq!(world.count("key_changes WHERE actor IS NOT NULL").await, 0);
}

pub(crate) async fn a_revoked_token_cannot_be_revived(world: World) {
    let new = world.new_token("bot");
    world.create_token(new.clone()).await;
    let revoked = world.revoke_token(new.id).await;
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    for change in [
        "revoke_time = NULL".to_owned(),
        format!("revoke_time = {}", world.a_tick_after("revoke_time")),
        format!("token_id = {id}"),
        format!("digest = {digest}"),
        "generation = generation + 1".to_owned(),
        "san = 'other.example', generation = NULL".to_owned(),
        format!("create_time = {}", world.a_tick_after("create_time")),
    ] {
        world
            .refused(
                format!("UPDATE caller_tokens SET {change}"),
                "a revoked token stays revoked",
            )
            .await;
    }
    let found = world.find_token(&new.digest).await;
    assert_eq!(
        (found.record, found.stamp.revision),
        (Some(revoked.record), 1)
    );
}

pub(crate) async fn a_replacing_insert_is_refused(world: World) {
    let new = world.new_token("bot");
    let token = world.create_token(new.clone()).await;
    let (id, digest) = (world.bytes(&[5; 16]), world.bytes(&[5; 32]));
    let (own_id, own_digest) = (world.id(token.id), world.bytes(new.digest.as_bytes()));
    for (id, digest) in [(&own_id, &digest), (&id, &own_digest)] {
        let sql = format!(
            "INSERT OR REPLACE INTO caller_tokens
                 (token_id, digest, generation, name, roles, create_time)
             SELECT {id}, {digest}, generation, name, 'admin', create_time FROM caller_tokens"
        );
        world
            .refused(sql, "a token with this token_id or digest exists")
            .await;
    }
    assert_eq!(world.tokens().await, [token]);
}
