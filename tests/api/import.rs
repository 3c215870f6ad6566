//! Import, its undoing, and export. An import never makes a dead key live again.

use keyward::config::Settings;
use keyward_core::key::ForeignFormat;
use keyward_proto::v1::{ImportKey, ImportOutcome, ImportResult, Verdict};
use keyward_testkit::{Scheme, importing, invalid, refused, undoing, uuid_v4};
use prost_types::Timestamp;

use super::*;

/// A service that accepts foreign keys of two formats, and a client with every role.
pub(crate) async fn start() -> (Local, Client) {
    let local = Local::start().await;
    let local = local.restart_with_import_secrets(accept_foreign).await;
    let client = local.client().await;
    (local, client)
}

pub(crate) fn accept_foreign(settings: &mut Settings) {
    let formats = ["uuid", "shop:sk_live_:hex:32"];
    settings.foreign_formats = formats
        .map(|text| ForeignFormat::parse(text).unwrap())
        .into();
}

/// A result without a `field`.
fn result(outcome: ImportOutcome, key_id: &str) -> ImportResult {
    ImportResult {
        outcome: outcome.into(),
        key_id: key_id.to_owned(),
        ..Default::default()
    }
}

/// Imports one key. Returns its id.
async fn import_one(client: &Client, key: ImportKey) -> ImportResult {
    let response = client.send(importing([key])).await.unwrap();
    let [result] = &response.results[..] else {
        panic!("{response:?}")
    };
    result.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_key_is_a_key_like_any_other() {
    let (local, client) = start().await;
    let text = format!("sk_live_{}", "0af3".repeat(8));
    let created = Timestamp {
        seconds: 1_500_000_000,
        nanos: 5_000,
    };
    let key = ImportKey {
        name: "production".to_owned(),
        scopes: ["write", "read"].map(str::to_owned).into(),
        metadata: [("team".to_owned(), "payments ✓".to_owned())].into(),
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        create_time: Some(created),
        expire_time: Some(later(created, 3_000_000_000)),
        recoverable: true,
        ..Scheme::Text.key("42", &text)
    };
    let response = client.send(importing([key.clone()])).await.unwrap();
    let counts = (response.imported, response.already_there, response.bad);
    assert_eq!((counts, response.confirmed_instances), ((1, 0, 0), 1));
    assert!(response.revision > 0);
    let id = response.results[0].key_id.clone();

    let shown = client.get(&id).await.unwrap();
    assert_eq!(shown.hint, "sk_live_0af3");
    assert_eq!((&shown.name, shown.recoverable), (&key.name, true));
    assert_eq!((shown.create_time, shown.revision), (key.create_time, 0));
    assert_eq!(client.list("42").await.unwrap(), [shown]);
    let verify = v1::VerifyRequest {
        required_scopes: vec!["read".to_owned()],
        client_ip: "10.1.1.1".to_owned(),
        ..verifying(&text)
    };
    let verified = client.send(verify).await.unwrap();
    assert_eq!(verified.verdict(), Verdict::Valid);
    assert_eq!(
        (verified.key_id, verified.metadata),
        (id.clone(), key.metadata)
    );
    assert_eq!(verified.expire_time, key.expire_time);
    let elsewhere = client.verify(&text).await.unwrap();
    assert_eq!(elsewhere, Verdict::IpNotAllowed);

    // The slot has the key: Issue finds it, and shows it to a revealer.
    let slot = v1::IssueRequest {
        name: key.name.clone(),
        ..recoverable("42")
    };
    let found = client.send(slot).await.unwrap();
    assert_eq!((found.created, found.api_key), (false, text.clone()));
    let replaced = client.send(replacing(&id)).await.unwrap();
    assert!(replaced.api_key.starts_with("kw_"));
    assert_eq!(client.verify(&text).await.unwrap(), Verdict::Revoked);
    local.app.stop().await;
}

/// An import outdates what an instance knows: that there is no such key.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_was_asked_for_is_found_after_its_import() {
    let (local, client) = start().await;
    for scheme in Scheme::ALL {
        let text = uuid_v4();
        for _ in 0..3 {
            assert_eq!(client.verify(&text).await.unwrap(), Verdict::NotFound);
        }
        let imported = import_one(&client, scheme.key(&text, &text)).await;
        assert_eq!(imported.outcome(), ImportOutcome::Imported, "{imported:?}");
        assert_eq!(
            client.verify(&text).await.unwrap(),
            Verdict::Valid,
            "{scheme:?}"
        );
    }
    local.app.stop().await;
}

/// Under every pair of schemes: imported, revoked, imported again. Known to the instance or not.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_revives_no_key() {
    let (local, client) = start().await;
    for is_known in [true, false] {
        for first in Scheme::ALL {
            for second in Scheme::ALL {
                let what = format!("{first:?}, then {second:?}, known: {is_known}");
                let text = uuid_v4();
                let key = import_one(&client, first.key(&what, &text)).await;
                if is_known {
                    assert_eq!(
                        client.verify(&text).await.unwrap(),
                        Verdict::Valid,
                        "{what}"
                    );
                }
                client.revoke(&key.key_id).await.unwrap();
                if is_known {
                    assert_eq!(
                        client.verify(&text).await.unwrap(),
                        Verdict::Revoked,
                        "{what}"
                    );
                }
                // Another account, because its slot is free anyway.
                let again = second.key(&format!("again: {what}"), &text);
                let again = import_one(&client, again).await;
                assert_ne!(again.outcome(), ImportOutcome::Bad, "{again:?}");
                let mut verdicts = Vec::new();
                for _ in 0..2 {
                    verdicts.push(client.verify(&text).await.unwrap());
                    verdicts.push(client.verify_strongly(&text).await.unwrap());
                }
                assert_eq!(verdicts, [Verdict::Revoked; 4], "{what}");
                let revoked = client.get(&key.key_id).await.unwrap();
                assert_eq!(revoked.state(), v1::State::Revoked, "{what}");
            }
        }
    }
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_has_its_own_result() {
    let (local, client) = start().await;
    let (live, live_text) = client.issue("live", "").await.unwrap();
    let good = |account: &str| Scheme::Text.key(account, &uuid_v4());
    let digest = || Scheme::Sha256.key("digest", &uuid_v4());
    let far = Some(Timestamp {
        seconds: 20_000_000_000,
        nanos: 0,
    });
    let past = Some(Timestamp::default());
    #[rustfmt::skip]
    let bad = [
        ("account_id", ImportKey { account_id: String::new(), ..good("1") }),
        ("account_id", ImportKey { account_id: "\0".to_owned(), ..good("1") }),
        ("account_id", ImportKey { account_id: live_text.clone(), ..good("1") }),
        ("name", ImportKey { name: "a b".to_owned(), ..good("1") }),
        ("name", good("live")),
        ("api_key", ImportKey { api_key: String::new(), ..good("1") }),
        ("api_key", ImportKey { api_key: "no-format".to_owned(), ..good("1") }),
        ("api_key", ImportKey { api_key: live_text.clone(), ..good("1") }),
        ("api_key", ImportKey { api_key: format!("{} ", uuid_v4()), ..good("1") }),
        ("api_key", ImportKey { api_key: uuid_v4(), ..digest() }),
        ("digest", ImportKey { digest: vec![7; 31], ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: String::new(), ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: "md5".to_owned(), ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: "hmac-sha256".to_owned(), ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: "hmac-sha256:3".to_owned(), ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: "hmac-sha256:x".to_owned(), ..digest() }),
        ("digest_scheme", ImportKey { digest_scheme: "sha256".to_owned(), ..good("1") }),
        ("scopes", ImportKey { scopes: vec!["a b".to_owned()], ..good("1") }),
        ("metadata", ImportKey { metadata: [("a".to_owned(), "\n".to_owned())].into(), ..good("1") }),
        ("metadata", ImportKey { metadata: [("a".to_owned(), live_text.clone())].into(), ..good("1") }),
        ("allowed_cidrs", ImportKey { allowed_cidrs: vec!["10.0.0.1/8".to_owned()], ..good("1") }),
        ("expire_time", ImportKey { expire_time: past, ..good("1") }),
        ("create_time", ImportKey { create_time: far, ..good("1") }),
        ("recoverable", ImportKey { recoverable: true, ..digest() }),
    ];
    let fields: Vec<_> = bad.iter().map(|(field, _)| *field).collect();
    let mut keys: Vec<_> = bad.iter().map(|(_, key)| key.clone()).collect();
    let duplicate = good("duplicate");
    keys.extend([duplicate.clone(), duplicate, good("last")]);
    let response = client.send(importing(keys.clone())).await.unwrap();
    let (refused, others) = response.results.split_at(fields.len());
    for ((result, field), key) in refused.iter().zip(&fields).zip(&keys) {
        assert_eq!(
            (result.outcome(), result.field.as_str()),
            (ImportOutcome::Bad, *field),
            "{key:?}"
        );
        assert!(!result.description.is_empty());
        let shown = format!("{result:?}");
        assert!(
            !shown.contains(&live_text)
                && (key.api_key.is_empty() || !shown.contains(&key.api_key))
        );
    }
    assert_eq!(refused[4].key_id, live, "the key in the slot");
    assert_eq!(others[0].outcome(), ImportOutcome::Imported);
    assert_eq!(
        others[1],
        result(ImportOutcome::Duplicate, &others[0].key_id)
    );
    assert_eq!(others[2].outcome(), ImportOutcome::Imported);
    let counts = (response.imported, response.duplicates, response.bad);
    assert_eq!(counts, (2, 1, u32::try_from(fields.len()).unwrap()));
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_changes_nothing_and_a_dry_run_neither() {
    let (local, client) = start().await;
    let keys = ["a", "b"].map(|account| Scheme::Text.key(account, &uuid_v4()));
    let request = importing(keys);
    let dry = v1::ImportKeysRequest {
        dry_run: true,
        ..request.clone()
    };
    let response = client.send(dry).await.unwrap();
    assert_eq!((response.imported, response.revision), (2, 0));
    assert_eq!(response.results[0], result(ImportOutcome::Imported, ""));
    let text = &request.keys[0].api_key;
    assert_eq!(client.verify(text).await.unwrap(), Verdict::NotFound);

    let first = client.send(request.clone()).await.unwrap();
    let again = client.send(request.clone()).await.unwrap();
    assert_eq!((again.imported, again.already_there), (0, 2));
    assert_eq!(again.revision, first.revision);
    for (again, first) in again.results.iter().zip(&first.results) {
        let there = ImportResult {
            same_batch: true,
            ..result(ImportOutcome::AlreadyThere, &first.key_id)
        };
        assert_eq!(*again, there);
    }
    let other = client.send(importing(request.keys)).await.unwrap();
    assert!(!other.results[0].same_batch);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_call_is_refused() {
    let (local, client) = start().await;
    let key = || Scheme::Text.key("42", &uuid_v4());
    for batch_id in ["", "x", "00000000-0000-0000-0000-000000000000"] {
        let request = v1::ImportKeysRequest {
            batch_id: batch_id.to_owned(),
            ..importing([key()])
        };
        invalid(client.send(request).await, "batch_id");
        invalid(client.send(undoing(batch_id)).await, "batch_id");
    }
    let many: Vec<_> = std::iter::repeat_with(key).take(1_001).collect();
    invalid(client.send(importing(many)).await, "keys");
    let large = ImportKey {
        digest_scheme: "x".repeat(2 << 20),
        ..key()
    };
    let status = client.send(importing([large])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let reason = v1::UndoImportRequest {
        reason: "\n".to_owned(),
        ..undoing(UNKNOWN)
    };
    invalid(client.send(reason).await, "reason");
    let exporting = v1::ExportKeysRequest {
        page_token: "x".to_owned(),
        ..Default::default()
    };
    invalid(client.send(exporting).await, "page_token");
    local.app.stop().await;

    let local = Local::start().await;
    let outcome = local.client().await.send(importing([key()])).await;
    refused(outcome, Code::FailedPrecondition, "NO_FOREIGN_FORMAT");
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_can_forbid_recoverable_keys() {
    let change = |settings: &mut Settings| {
        accept_foreign(settings);
        settings.forbid_recoverable = true;
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let key = ImportKey {
        recoverable: true,
        ..Scheme::Text.key("42", &uuid_v4())
    };
    assert_eq!(import_one(&client, key).await.field, "recoverable");
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undone_import_is_dead_when_the_call_returns() {
    let (local, client) = start().await;
    let mut texts = Vec::new();
    let mut keys = Vec::new();
    for number in 0..700 {
        let (account, text) = (format!("account-{number}"), uuid_v4());
        keys.push(Scheme::Text.key(&account, &text));
        texts.push(text);
    }
    let request = importing(keys);
    client.send(request.clone()).await.unwrap();
    let (_, own) = client.issue("own", "").await.unwrap();
    for text in texts.iter().take(20) {
        assert_eq!(client.verify(text).await.unwrap(), Verdict::Valid);
    }
    let undone = client.send(undoing(&request.batch_id)).await.unwrap();
    assert_eq!((undone.revoked_count, undone.confirmed_instances), (700, 1));
    assert!(undone.revoke_time.is_some());
    for text in &texts {
        assert_eq!(client.verify(text).await.unwrap(), Verdict::Revoked);
    }
    assert_eq!(client.verify(&own).await.unwrap(), Verdict::Valid);
    let again = client.send(undoing(&request.batch_id)).await.unwrap();
    assert_eq!((again.revoked_count, again.revoke_time), (0, None));
    let key = client.list("account-0").await.unwrap().remove(0);
    assert_eq!(key.revoke_reason, "wrong file");
    // What is undone stays dead.
    let again = client.send(request).await.unwrap();
    assert_eq!((again.imported, again.already_there), (0, 700));
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_key_and_no_secret() {
    let (local, client) = start().await;
    let mut ids = Vec::new();
    for account in ["a", "b", "c"] {
        ids.push(client.issue(account, "").await.unwrap().0);
    }
    let text = uuid_v4();
    ids.push(
        import_one(&client, Scheme::Text.key("d", &text))
            .await
            .key_id,
    );
    client.revoke(&ids[1]).await.unwrap();
    for (include_revoked, expected) in [
        (true, ids.clone()),
        (false, [&ids[..1], &ids[2..]].concat()),
    ] {
        let mut request = v1::ExportKeysRequest {
            include_revoked,
            page_size: 1,
            page_token: String::new(),
        };
        let mut found = Vec::new();
        loop {
            let page = client.send(request.clone()).await.unwrap();
            assert!(!format!("{page:?}").contains(&text));
            found.extend(page.keys.into_iter().map(|key| key.key_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(found, expected);
        let mut other = request.clone();
        other.include_revoked = !include_revoked;
        invalid(client.send(other).await, "page_token");
    }
    local.app.stop().await;
}
