//! Get and List: they show keys without their secrets.

use keyward_proto::v1::{self, State};
use keyward_testkit::refused;
use tonic::Code;

use super::*;

/// Every page of an account's keys, in pages of `page_size`.
async fn pages(client: &Client, include_revoked: bool, page_size: i32) -> Vec<Vec<v1::ApiKey>> {
    let mut pages = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRequest {
            account_id: "42".to_owned(),
            include_revoked,
            page_size,
            page_token,
            ..Default::default()
        };
        let page = client.send(request).await.unwrap();
        pages.push(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return pages;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_by_its_id_and_by_its_text_whatever_its_state() {
    let (_local, client) = start().await;
    let issued = client.send(recoverable("42")).await.unwrap();
    let key = issued.key.unwrap();
    let (id, text) = (key.key_id.clone(), issued.api_key);
    let both = async |state| {
        let found = client.get(&id).await.unwrap();
        let by_text = client.send(getting_by_text(&text)).await.unwrap();
        assert_eq!(by_text.key.as_ref(), Some(&found));
        assert_eq!(found.state(), state);
        assert!(
            !format!("{found:?}").contains(&text[8..]),
            "never the secret"
        );
    };
    both(State::Active).await;
    assert_eq!(
        client.get(&id.to_uppercase()).await.unwrap(),
        key,
        "a UUID in any case"
    );
    client.disable(&id, true).await.unwrap();
    both(State::Disabled).await;
    client.revoke(&id).await.unwrap();
    both(State::Revoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_not_found() {
    let (_local, client) = start().await;
    let outcome = client.get(UNKNOWN).await;
    refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
    for text in ["no key at all", " "] {
        let outcome = client.send(getting_by_text(text)).await;
        refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_listed_page_by_page_in_the_order_of_their_creation() {
    let (_local, client) = start().await;
    let mut all = Vec::new();
    let mut live = Vec::new();
    for n in 0..120 {
        let (id, _) = client.issue("42", &format!("slot-{n}")).await.unwrap();
        if n % 3 == 0 {
            client.revoke(&id).await.unwrap();
        } else {
            live.push(id.clone());
        }
        all.push(id);
    }
    client.issue("43", "").await.unwrap();
    all.sort();
    live.sort();

    let listed = pages(&client, true, 50).await;
    assert_eq!(
        listed.iter().map(Vec::len).collect::<Vec<_>>(),
        [50, 50, 20]
    );
    let listed = listed.concat();
    assert!(listed.iter().map(|key| &key.key_id).eq(&all));
    let revoked = listed.iter().filter(|key| key.state() == State::Revoked);
    assert_eq!(revoked.count(), 40);
    assert_eq!(listed[7], client.get(&all[7]).await.unwrap());

    let listed = pages(&client, false, 50).await;
    assert_eq!(listed.iter().map(Vec::len).collect::<Vec<_>>(), [50, 30]);
    assert!(listed.concat().iter().map(|key| &key.key_id).eq(&live));

    assert_eq!(pages(&client, true, 0).await[0].len(), 50, "the default");
    assert_eq!(
        pages(&client, true, 120).await.len(),
        1,
        "no empty last page"
    );
    assert_eq!(pages(&client, true, i32::MAX).await.len(), 1);
    assert_eq!(pages(&client, true, 1).await.len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_follow_with_another_size_and_sees_what_came_since() {
    let (_local, client) = start().await;
    for n in 0..3 {
        client.issue("42", &format!("slot-{n}")).await.unwrap();
    }
    let list = async |page_size, page_token: &str| {
        let request = v1::ListRequest {
            account_id: "42".to_owned(),
            page_size,
            page_token: page_token.to_owned(),
            ..Default::default()
        };
        client.send(request).await.unwrap()
    };
    let first = list(1, "").await;
    let last = list(10, &first.next_page_token).await;
    assert_eq!((last.keys.len(), last.next_page_token.as_str()), (2, ""));
    client.revoke(&last.keys[0].key_id).await.unwrap();
    let again = list(10, &first.next_page_token).await;
    assert_eq!(again.keys, last.keys[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_listed_until_it_is_revoked_and_a_graced_one_until_its_end() {
    let (local, client) = start().await;
    let expired = client
        .send(living("42", 600))
        .await
        .unwrap()
        .key
        .unwrap()
        .key_id;
    let (graced, _) = client.issue("42", "graced").await.unwrap();
    client.send(with_grace(&graced, 600)).await.unwrap();
    assert_eq!(pages(&client, false, 0).await[0].len(), 2);
    pass(&local, 601).await;
    let live = pages(&client, false, 0).await.concat();
    assert_eq!((live.len(), &live[0].key_id), (1, &expired));
    assert_eq!(live[0].state(), State::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_by_their_age() {
    let (local, client) = start().await;
    let (old, _) = client.issue("42", "old").await.unwrap();
    pass(&local, 3_600).await;
    client.issue("42", "new").await.unwrap();
    let list = async |older_than, page_token: &str| {
        let request = v1::ListRequest {
            older_than: seconds(older_than),
            page_size: 1,
            page_token: page_token.to_owned(),
            ..listing("42")
        };
        client.send(request).await
    };
    let page = list(3_600, "").await.unwrap();
    assert_eq!((page.keys.len(), page.keys[0].key_id.as_str()), (1, &*old));
    assert_eq!(list(3_700, "").await.unwrap().keys, []);
    let both = list(0, "").await.unwrap();
    assert!(!both.next_page_token.is_empty());
    for (older_than, token) in [(-1, ""), (3_153_600_001, ""), (1, &both.next_page_token)] {
        let outcome = list(older_than, token).await;
        refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
    }
}

/// All keys that fit, by as many pages as the service makes.
async fn found(client: &Client, request: v1::ListRequest) -> Vec<String> {
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = v1::ListRequest {
            page_size: 2,
            page_token,
            ..request.clone()
        };
        let page = client.send(page).await.unwrap();
        names.extend(page.keys.into_iter().map(|key| key.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

fn all_accounts() -> v1::ListRequest {
    v1::ListRequest {
        all_accounts: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_combined_over_all_accounts() {
    let change = |settings: &mut keyward::config::Settings| {
        settings.use_interval = Duration::from_secs(1);
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let mut keys = Vec::new();
    for name in ["a.live", "a.dead", "a.off", "b.live", "a.used"] {
        for account in ["1", "2"] {
            keys.push(client.issue(account, name).await.unwrap());
        }
    }
    for n in [2, 3] {
        client.revoke(&keys[n].0).await.unwrap();
        client.disable(&keys[n + 2].0, true).await.unwrap();
    }
    pass(&local, 3_600).await;
    for n in [8, 9] {
        assert_eq!(client.verify(&keys[n].1).await.unwrap(), Verdict::Valid);
        while client
            .get(&keys[n].0)
            .await
            .unwrap()
            .last_use_time
            .is_none()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let both = |names: &[&str]| -> Vec<String> {
        let twice = names.iter().flat_map(|name| [*name, *name]);
        twice.map(str::to_owned).collect()
    };
    assert_eq!(found(&client, all_accounts()).await.len(), 8);
    let of = |state: State, prefix: &str, unused| v1::ListRequest {
        state: state.into(),
        name_prefix: prefix.to_owned(),
        unused_for: unused,
        ..all_accounts()
    };
    let any = State::Unspecified;
    for (request, expected) in [
        (of(any, "a.", None), both(&["a.live", "a.off", "a.used"])),
        (
            of(State::Active, "", None),
            both(&["a.live", "b.live", "a.used"]),
        ),
        (of(State::Active, "a", None), both(&["a.live", "a.used"])),
        (of(State::Revoked, "", None), both(&["a.dead"])),
        (of(State::Disabled, "", None), both(&["a.off"])),
        (of(State::Expired, "", None), both(&[])),
        (
            of(State::Active, "", seconds(3_600)),
            both(&["a.live", "b.live"]),
        ),
        (of(State::Active, "a", seconds(3_600)), both(&["a.live"])),
        (of(any, "c", None), both(&[])),
    ] {
        assert_eq!(
            found(&client, request.clone()).await,
            expected,
            "{request:?}"
        );
        let of_one = v1::ListRequest {
            account_id: "2".to_owned(),
            all_accounts: false,
            ..request
        };
        let half: Vec<_> = expected.into_iter().step_by(2).collect();
        assert_eq!(found(&client, of_one).await, half);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_filter_is_refused_and_a_token_belongs_to_its_filters() {
    let (_local, client) = start().await;
    for n in 0..3 {
        client.issue("42", &format!("slot-{n}")).await.unwrap();
    }
    let request = v1::ListRequest {
        page_size: 1,
        ..all_accounts()
    };
    let first = client.send(request.clone()).await.unwrap();
    assert!(!first.next_page_token.is_empty());
    type Change = fn(&mut v1::ListRequest);
    let wrong: [Change; 8] = [
        |r| r.all_accounts = false,
        |r| r.account_id = "42".to_owned(),
        |r| r.state = 77,
        |r| r.state = -1,
        |r| r.name_prefix = "no spaces".to_owned(),
        |r| r.name_prefix = "x".repeat(65),
        |r| r.unused_for = seconds(-1),
        |r| r.unused_for = seconds(3_153_600_001),
    ];
    let others: [Change; 6] = [
        |r| (r.account_id, r.all_accounts) = ("42".to_owned(), false),
        |r| r.include_revoked = true,
        |r| r.state = State::Active.into(),
        |r| r.name_prefix = "slot".to_owned(),
        |r| r.unused_for = seconds(0),
        |r| r.older_than = seconds(0),
    ];
    for (changes, token) in [(&wrong[..], ""), (&others[..], &*first.next_page_token)] {
        for change in changes {
            let mut changed = v1::ListRequest {
                page_token: token.to_owned(),
                ..request.clone()
            };
            change(&mut changed);
            let outcome = client.send(changed.clone()).await;
            refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_after_keys_that_do_not_fit() {
    let (local, client) = start().await;
    client.issue("42", "a").await.unwrap();
    by_hand(
        &local,
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                               allowed_cidrs, recoverable, create_time)
         WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n <= 20000)
         SELECT CASE n WHEN 1 THEN x'fffffffffffffffffffffffffffffffe' ELSE randomblob(16) END,
                randomblob(32), generation, account_id, iif(n = 1, 'last', 'slot-' || n), hint, scopes,
                metadata, allowed_cidrs, recoverable, create_time
           FROM api_keys, n",
    )
    .await;
    let request = v1::ListRequest {
        name_prefix: "last".to_owned(),
        ..all_accounts()
    };
    let first = client.send(request.clone()).await.unwrap();
    assert_eq!(first.keys, [], "10,000 keys were examined");
    assert_eq!(found(&client, request).await, ["last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_keys_gives_an_empty_page() {
    let (_local, client) = start().await;
    assert_eq!(pages(&client, true, 0).await, [[]]);
}
