//! Lists of keys: filters and pages.

use std::time::Duration;

use keyward_core::key::{KeyId, KeyRecord, KeyState, KeyUse, SlotName};
use keyward_store::{Expiry, ListKeys};

use crate::world::{DAY, HOUR, World, account, disabled, end, kill};

pub(crate) fn list(account: &str, include_revoked: bool) -> ListKeys {
    ListKeys {
        account: Some(self::account(account)),
        include_revoked,
        limit: 1_000,
        ..ListKeys::default()
    }
}

fn ids(records: &[KeyRecord]) -> Vec<KeyId> {
    records.iter().map(|record| record.id).collect()
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
    assert_eq!(world.listed(list("42", false)).await, all);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|record: &KeyRecord| record.id);
        let query = ListKeys {
            after,
            limit: 3,
            ..list("42", false)
        };
        let page = world.listed(query).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(world.listed(list("4", true)).await.is_empty());
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
    let listed = world.listed(list("42", false)).await;
    assert_eq!(ids(&listed), [all[0], all[2], all[3], all[4]]);
    assert_eq!(ids(&world.listed(list("42", true)).await), all);
    let query = ListKeys {
        after: Some(all[0]),
        limit: 1,
        ..list("42", false)
    };
    assert_eq!(ids(&world.listed(query).await), [all[2]]);
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
        ids(&world.listed(query).await)
    };
    let moment = Duration::from_millis(100);
    assert_eq!(listed(Duration::ZERO).await, all);
    assert_eq!(listed(HOUR).await, all);
    assert_eq!(listed(HOUR + moment).await, all[..2]);
    assert_eq!(listed(3 * HOUR).await, all[..1]);
    assert_eq!(listed(3 * HOUR + moment).await, []);
}

pub(crate) async fn keys_are_listed_by_their_state(world: World) {
    let now = world.now().await;
    let mut all = Vec::new();
    for (name, expiry) in [
        ("active", Expiry::Never),
        ("grace", Expiry::Never),
        ("expired", Expiry::At(now)),
        ("disabled", Expiry::After(DAY)),
        ("revoked", Expiry::Never),
        ("expired and disabled", Expiry::After(HOUR)),
    ] {
        let mut new = world.plain_key("42", &name.replace(' ', "-"));
        new.expiry = expiry;
        all.push(world.issue(new).await.id);
    }
    world.revoke(end(all[1], DAY)).await;
    world.revoke(kill(all[4])).await;
    for id in [all[3], all[5]] {
        world.update(id, disabled(true)).await;
    }
    let listed = async |state| {
        let of = |account| ListKeys {
            account,
            state: Some(state),
            limit: 100,
            ..ListKeys::default()
        };
        let of_account = ids(&world.listed(of(Some(account("42")))).await);
        assert_eq!(of_account, ids(&world.listed(of(None)).await));
        let include_revoked = true;
        let query = ListKeys {
            include_revoked,
            ..of(None)
        };
        assert_eq!(of_account, ids(&world.listed(query).await));
        of_account
    };
    assert_eq!(listed(KeyState::Active).await, all[..2]);
    assert_eq!(listed(KeyState::Expired).await, all[2..3]);
    assert_eq!(listed(KeyState::Disabled).await, [all[3], all[5]]);
    assert_eq!(listed(KeyState::Revoked).await, all[4..5]);
    // What the time ends changes its state by itself.
    world.clock.pass(DAY);
    assert_eq!(listed(KeyState::Active).await, all[..1]);
    assert_eq!(listed(KeyState::Expired).await, [all[2], all[3], all[5]]);
    assert_eq!(listed(KeyState::Revoked).await, [all[1], all[4]]);
}

pub(crate) async fn keys_are_listed_by_their_last_use(world: World) {
    let mut all = Vec::new();
    for name in ["never", "once", "refused", "daily"] {
        all.push(world.issue(world.plain_key("42", name)).await.id);
    }
    let start = world.now().await;
    let used = |at| KeyUse {
        last_use: Some(at),
        ..KeyUse::default()
    };
    let refused = KeyUse {
        refused: 3,
        last_refused: Some(start),
        ..KeyUse::default()
    };
    let noted = [
        (all[1], used(start)),
        (all[2], refused),
        (all[3], used(start)),
    ];
    world.store.note_uses(&noted).await.unwrap();
    world.clock.pass(DAY);
    let now = world.now().await;
    world.store.note_uses(&[(all[3], used(now))]).await.unwrap();
    let listed = async |least| {
        let query = ListKeys {
            unused_for: Some(least),
            ..list("42", false)
        };
        ids(&world.listed(query).await)
    };
    assert_eq!(listed(Duration::ZERO).await, all);
    assert_eq!(listed(HOUR).await, all[..3]);
    assert_eq!(listed(2 * DAY).await, []);
    world.clock.pass(HOUR);
    assert_eq!(listed(HOUR).await, all);
}

pub(crate) async fn keys_are_listed_by_the_start_of_their_names(world: World) {
    let names = ["a", "ab", "abc", "b", "aB", "a_b", "a-b", "a.b"];
    let mut all = Vec::new();
    for name in names {
        all.push(world.issue(world.plain_key("42", name)).await.id);
        world.issue(world.plain_key("43", name)).await;
    }
    for prefix in ["a", "ab", "abc", "abcd", "z", "a_", "A", "a."] {
        let of = |account| ListKeys {
            account,
            name_prefix: Some(SlotName::new("name", prefix.to_owned()).unwrap()),
            limit: 100,
            ..ListKeys::default()
        };
        let expected: Vec<_> = names
            .iter()
            .zip(&all)
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, id)| *id)
            .collect();
        let found = world.listed(of(Some(account("42")))).await;
        assert_eq!(ids(&found), expected, "{prefix}");
        assert_eq!(world.listed(of(None)).await.len(), 2 * expected.len());
    }
}

pub(crate) async fn a_list_ends_early_after_many_keys_that_do_not_fit(world: World) {
    let first = world.plain("42").await;
    let (id, digest) = world.random_bytes();
    let rows = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 21000)";
    let more = format!(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time)
         {rows} SELECT {id}, {digest}, generation, account_id, 'more-' || n, hint, scopes, metadata,
                allowed_cidrs, recoverable, create_time FROM api_keys, n"
    );
    world.by_hand(&more).await;
    let of = Some(account("42"));
    let disabled = Some(KeyState::Disabled);
    for (of, state) in [(None, None), (of.clone(), None), (of, disabled)] {
        let query = ListKeys {
            account: of,
            state,
            unused_for: Some(HOUR),
            limit: 10,
            ..ListKeys::default()
        };
        let (mut after, mut pages) = (None, 0);
        loop {
            let query = ListKeys {
                after,
                ..query.clone()
            };
            let page = world.store.list_keys(query).await.unwrap();
            assert_eq!(page.keys, [], "all keys are new");
            pages += 1;
            assert!(page.examined_to > after || page.examined_to.is_none());
            after = page.examined_to;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 3, "10,000 keys at most are examined at once");
    }
    // A full page says nothing about what was examined.
    let query = ListKeys {
        account: Some(first.account),
        limit: 10,
        ..ListKeys::default()
    };
    let page = world.store.list_keys(query).await.unwrap();
    assert_eq!((page.keys.len(), page.examined_to), (10, None));
}
