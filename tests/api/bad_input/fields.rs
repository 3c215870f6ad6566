//! Fields beyond their limits. Every refusal names the field, and nothing is changed.

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::invalid;
use prost_types::{Duration, FieldMask, Timestamp};

use super::*;

const YEAR: i64 = 365 * 24 * 3_600;
/// 9999-01-01T00:00:00Z.
const YEAR_9999: i64 = 253_370_764_800;

/// Asserts that a key with these values can neither be issued nor be made by Update.
async fn refuse(client: &Client, wrong: v1::IssueRequest, field: &str) {
    invalid(client.send(wrong.clone()).await, field);

    let (id, _) = client.issue("updated", "").await.unwrap();
    let key = v1::ApiKey {
        scopes: wrong.scopes,
        metadata: wrong.metadata,
        allowed_cidrs: wrong.allowed_cidrs,
        expire_time: wrong.expire_time,
        ..bare(&id)
    };
    let outcome = client.send(changing(key, [field])).await;
    invalid(outcome, &format!("key.{field}"));
    assert_eq!(
        client.get(&id).await.unwrap().revision,
        0,
        "nothing was changed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts() {
    let (_local, client) = start().await;
    let long = "x".repeat(129);
    for account in [&long, "a\tb", "a\nb", "\0", "\u{7f}", "é", " a", "a "] {
        invalid(client.send(by_account(account)).await, "account_id");
        invalid(client.send(slot(account)).await, "account_id");
        invalid(client.send(listing(account)).await, "account_id");
    }
    invalid(client.send(slot("")).await, "account_id");
    client.send(slot(&long[..128])).await.unwrap();
    client.send(slot("a b ~ !")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names() {
    let (_local, client) = start().await;
    let long = "x".repeat(65);
    let named = |name: &str| v1::IssueRequest {
        name: name.to_owned(),
        ..slot("42")
    };
    for name in [long.as_str(), "a b", "a/b", "é", "a\n", "\0"] {
        invalid(client.send(named(name)).await, "name");
    }
    client.send(named(&long[..64])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes() {
    let (_local, client) = start().await;
    let scoped = |scopes: Vec<String>| v1::IssueRequest {
        scopes,
        ..slot("42")
    };
    let many = |count| (0..count).map(|n| format!("scope:{n}")).collect();
    refuse(&client, scoped(many(10_000)), "scopes").await;
    refuse(&client, scoped(many(65)), "scopes").await;
    refuse(&client, scoped(vec!["x".repeat(65)]), "scopes").await;
    for scope in ["", "a b", "a\n", "é", "a,b"] {
        refuse(&client, scoped(vec![scope.to_owned()]), "scopes").await;
    }
    let most = (0..64).map(|n| format!("{n:064}")).collect();
    client.send(scoped(most)).await.unwrap();

    for required in [many(10_000), vec!["a b".to_owned()], vec![String::new()]] {
        let request = v1::VerifyRequest {
            required_scopes: required,
            ..verifying("x")
        };
        let outcome = client.send(request).await;
        invalid(outcome, "required_scopes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata() {
    let (_local, client) = start().await;
    let noted = |entries: Vec<(String, String)>| v1::IssueRequest {
        metadata: entries.into_iter().collect(),
        ..slot("42")
    };
    let one = |key: &str, value: &str| noted(vec![(key.to_owned(), value.to_owned())]);
    let sized = |count: usize, bytes: usize| {
        noted(
            (0..count)
                .map(|n| (format!("{n:02}"), "x".repeat(bytes)))
                .collect(),
        )
    };
    for (wrong, why) in [
        (sized(33, 1), "33 entries"),
        (one("k", &"x".repeat(513)), "a value of 513 bytes"),
        (sized(16, 511), "8,208 bytes in all"),
        (one("", "v"), "an empty key"),
        (one(&"x".repeat(65), "v"), "a key of 65 bytes"),
        (one("a b", "v"), "a space in a key"),
        (one("é", "v"), "a key that is not ASCII"),
        (one("k", "a\nb"), "a control character"),
        (one("k", "\u{85}"), "a control character of Unicode"),
    ] {
        println!("{why}");
        refuse(&client, wrong, "metadata").await;
    }
    client.send(sized(16, 510)).await.unwrap();
    let second = v1::IssueRequest {
        name: "b".to_owned(),
        ..sized(32, 254)
    };
    client.send(second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn networks() {
    let (_local, client) = start().await;
    let bound = |networks: Vec<String>| v1::IssueRequest {
        allowed_cidrs: networks,
        ..slot("42")
    };
    for broken in [
        "",
        "x",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0/8",
        "10.0.0.0/",
        "10.0.0.0/-1",
        " 10.0.0.0/8",
        "10.0.0.0/8\n",
        "2001:db8::1/32",
        "::/129",
        "::ffff:10.0.0.0/104",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "10.0.0.0:80",
        "010.0.0.0/8",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
    ] {
        println!("{broken:?}");
        refuse(
            &client,
            bound(vec!["192.0.2.1".to_owned(), broken.to_owned()]),
            "allowed_cidrs",
        )
        .await;
    }
    let many = |count| (0..count).map(|n| format!("10.0.{n}.0/24")).collect();
    refuse(&client, bound(many(33)), "allowed_cidrs").await;
    client.send(bound(many(32))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn expiries() {
    let (_local, client) = start().await;
    let ending = |seconds, nanos| v1::IssueRequest {
        expire_time: Some(Timestamp { seconds, nanos }),
        ..slot("42")
    };
    for (seconds, nanos) in [
        (1_000_000_000, 0),
        (0, 0),
        (-1, 0),
        (YEAR_9999, 0),
        (i64::MAX, 0),
        (i64::MIN, 999_999_999),
        (4_000_000_000, -1),
        (4_000_000_000, 1_000_000_000),
    ] {
        refuse(&client, ending(seconds, nanos), "expire_time").await;
    }
    client
        .send(ending(YEAR_9999 - 1, 999_999_999))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn times_to_live() {
    let (_local, client) = start().await;
    let living = |seconds, nanos| v1::IssueRequest {
        ttl: Some(Duration { seconds, nanos }),
        ..slot("42")
    };
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (60, -1),
        (0, 0),
        (0, 999_999_999),
        (101 * YEAR, 0),
        (100 * YEAR, 1_000),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (60, 1_000_000_000),
    ] {
        invalid(client.send(living(seconds, nanos)).await, "ttl");
    }
    let both = v1::IssueRequest {
        expire_time: Some(Timestamp {
            seconds: 4_000_000_000,
            nanos: 0,
        }),
        ..living(60, 0)
    };
    invalid(client.send(both).await, "ttl");
    client.send(living(100 * YEAR, 0)).await.unwrap();
}

/// Fields that only a new key uses are always checked.
#[tokio::test(flavor = "multi_thread")]
async fn fields_are_checked_even_if_the_slot_is_filled() {
    let (_local, client) = start().await;
    client.issue("42", "").await.unwrap();
    let wrong = v1::IssueRequest {
        scopes: vec![String::new()],
        ..slot("42")
    };
    invalid(client.send(wrong).await, "scopes");
    let past = v1::IssueRequest {
        expire_time: Some(Timestamp::default()),
        ..slot("42")
    };
    invalid(client.send(past).await, "expire_time");
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_and_key_ids() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let revoke = async |id: &str, reason: &str| {
        let request = v1::RevokeRequest {
            reason: reason.to_owned(),
            ..by_id(id)
        };
        client.send(request).await
    };
    for reason in ["a\nb", "\u{7f}", &"x".repeat(257)] {
        invalid(revoke(&id, reason).await, "reason");
    }
    for wrong in ["x", &id[1..], &format!("{id} "), &id.replace('-', "")] {
        invalid(revoke(wrong, "").await, "key_id");
        let outcome = client.send(getting(wrong)).await;
        invalid(outcome, "key_id");
    }
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    revoke(&id, &"x".repeat(256)).await.unwrap();
}

/// What is stored is also shown: to readers, in backups, and to each service that verifies the key.
#[tokio::test(flavor = "multi_thread")]
async fn no_stored_field_takes_a_key() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let token = client.send(creating_token("b", &[v1::Role::Reader])).await;
    for secret in [&key, &token.unwrap().token] {
        let quoted = format!("see {secret}.");
        let metadata = [("note".to_owned(), quoted.clone())].into();
        let wrong = v1::IssueRequest {
            metadata,
            ..slot("43")
        };
        refuse(&client, wrong, "metadata").await;
        let wrong = v1::IssueRequest {
            metadata: [(secret.clone(), String::new())].into(),
            ..slot("43")
        };
        refuse(&client, wrong, "metadata").await;
        let wrong = v1::IssueRequest {
            scopes: vec![secret.clone()],
            ..slot("43")
        };
        refuse(&client, wrong, "scopes").await;
        let wrong = v1::IssueRequest {
            name: secret.clone(),
            ..slot("43")
        };
        invalid(client.send(wrong).await, "name");
        invalid(client.send(slot(&quoted)).await, "account_id");
        let wrong = v1::RevokeRequest {
            reason: quoted,
            ..by_id(&id)
        };
        invalid(client.send(wrong).await, "reason");
        let wrong = creating_token(secret, &[v1::Role::Reader]);
        invalid(client.send(wrong).await, "name");
    }
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    // A text that only resembles a key is no secret.
    let digit = if &key[5..6] == "0" { "1" } else { "0" };
    let other = v1::RevokeRequest {
        reason: format!("{}{digit}{}", &key[..5], &key[6..]),
        ..by_id(&id)
    };
    client.send(other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn masks() {
    let (_local, client) = start().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    let key = v1::ApiKey {
        disabled: true,
        ..bare(&id)
    };
    let update = async |key: Option<v1::ApiKey>, paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = Some(FieldMask { paths });
        client.send(v1::UpdateRequest { key, update_mask }).await
    };
    for path in [
        "*",
        "",
        "nothing",
        "Disabled",
        "key.disabled",
        "disabled ",
        "scopes.0",
        "metadata.a",
        "name",
        "account_id",
        "recoverable",
        "revoke_time",
        "key_id",
        "a\nb",
        "disabled,scopes",
    ] {
        invalid(
            update(Some(key.clone()), &["disabled", path]).await,
            "update_mask",
        );
    }
    invalid(update(Some(key.clone()), &[]).await, "update_mask");
    let no_mask = v1::UpdateRequest {
        key: Some(key.clone()),
        update_mask: None,
    };
    invalid(client.send(no_mask).await, "update_mask");
    invalid(update(None, &["disabled"]).await, "key");
    for wrong in ["", "x"] {
        let key = v1::ApiKey {
            key_id: wrong.to_owned(),
            ..key.clone()
        };
        invalid(update(Some(key), &["disabled"]).await, "key.key_id");
    }
    assert!(
        !client.get(&id).await.unwrap().disabled,
        "nothing was changed"
    );
    update(Some(key), &["disabled", "disabled"]).await.unwrap();
}
