//! Keys of another product: each way to ask about one, and what an import and a revocation change. The
//! keys are imported by SQL, under any scheme.

use keyward::config::Settings;
use keyward::system::SystemEntropy;
use keyward_core::key::ForeignFormat;
use keyward_crypto::{Active, ImportSecret, Keyring, keyring_files};
use keyward_testkit::{PATIENCE, eventually, http_get};

use super::*;

/// SHA-256, and HMAC-SHA256 under two secrets.
const SCHEMES: usize = 3;
const TEXT: &str = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";

/// Accepts UUIDs, with import secrets in the keyring.
pub(super) fn takes_uuids(settings: &mut Settings) {
    settings.foreign_formats = vec![ForeignFormat::parse("uuid").unwrap()];
    keyring_files::generate(&settings.keyring, &SystemEntropy).unwrap();
    for secret in ["one", "two"] {
        let secret = ImportSecret::new(secret.as_bytes()).unwrap();
        keyring_files::add_import_secret(&settings.keyring, None, &secret).unwrap();
    }
}

async fn start_with_uuids() -> (Local, Client) {
    let local = Local::start_with(takes_uuids, |store| store).await;
    let client = local.client().await;
    (local, client)
}

/// Another text, for each number.
fn text(number: u8) -> String {
    format!("{number:02x}{}", &TEXT[2..])
}

/// Imports a key with this number under a scheme. Returns its id after the instance knows it.
pub(super) async fn import(local: &Local, text: &str, number: u8, scheme: usize) -> String {
    let id = insert(local, text, number, scheme).await;
    // The instance has applied the import when this later change holds everywhere.
    let client = local.client().await;
    let (later, _) = client.issue("later", "").await.unwrap();
    client.revoke(&later).await.unwrap();
    id
}

async fn insert(local: &Local, text: &str, number: u8, scheme: usize) -> String {
    let id = uuid::Uuid::from_bytes([number; 16]);
    let material = keyring_files::load(&local.directory.path().join("keyring")).unwrap();
    let keyring = Keyring::new(&material, Active::default()).unwrap();
    let digest = keyring.foreign_digests(text).nth(scheme).unwrap();
    let mut hand = sqlite(&local.database()).await;
    let inserted = sqlx::query(
        "INSERT INTO api_keys (key_id, digest, import_batch, account_id, name, hint, scopes, metadata,
                               allowed_cidrs, recoverable, create_time)
         SELECT ?1, ?2, randomblob(16), 'imported', 'slot-' || ?3, 'uuid', '[\"read\"]', '{}', '[]', 0, newest
           FROM store_clock",
    );
    let inserted = inserted
        .bind(id.as_bytes().to_vec())
        .bind(digest.as_bytes().to_vec())
        .bind(number);
    inserted.execute(&mut hand).await.unwrap();
    id.to_string()
}

/// What each RPC says about a text: all agree.
async fn verdict(local: &Local, client: &Client, text: &str) -> Verdict {
    let verdict = client.verify(text).await.unwrap();
    let again = client.verify(text).await.unwrap();
    let strong = client.verify_strongly(text).await.unwrap();
    let batch = client
        .send(v1::VerifyBatchRequest {
            requests: vec![verifying(text), verifying_strongly(text)],
        })
        .await
        .unwrap();
    let json = verify_by_json(local, text).await;
    let mut all = vec![again, strong];
    all.extend(batch.responses.iter().map(v1::VerifyResponse::verdict));
    assert!(
        all.iter().all(|other| *other == verdict),
        "{verdict:?}, then {all:?}"
    );
    let name = verdict.as_str_name().trim_start_matches("VERDICT_");
    assert!(json.contains(name), "{verdict:?}: {json}");
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_lives_from_its_import_to_its_revocation() {
    let (local, client) = start_with_uuids().await;
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::NotFound);
    let id = import(&local, TEXT, 1, 0).await;
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Valid);
    let answer = client.send(verifying(TEXT)).await.unwrap();
    assert_eq!(
        (answer.key_id.as_str(), answer.account_id.as_str()),
        (id.as_str(), "imported")
    );
    let shown = client.send(getting_by_text(TEXT)).await.unwrap();
    assert_eq!(shown.key.unwrap().key_id, id);
    let asked = v1::VerifyRequest {
        required_scopes: vec!["write".to_owned()],
        ..verifying(TEXT)
    };
    let unfit = client.send(asked).await.unwrap().verdict();
    assert_eq!(unfit, Verdict::InsufficientScope);
    // Each byte counts.
    let capital = TEXT.to_uppercase();
    assert_eq!(verdict(&local, &client, &capital).await, Verdict::NotFound);
    client.disable(&id, true).await.unwrap();
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Disabled);
    client.disable(&id, false).await.unwrap();
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Valid);
    for _ in 0..2 {
        let revoked = client.send(by_text(TEXT)).await.unwrap();
        assert_eq!(revoked.revoked[0].key_id, id);
        assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Revoked);
    }
    let unknown = client.send(by_text(&capital)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_text_with_a_format_is_looked_up() {
    let (local, client) = start_with_uuids().await;
    let lookups = async || {
        let metrics = http_get(local.app.http_address().unwrap(), "/metrics").await;
        let line = metrics.lines().find(|line| {
            line.starts_with("keyward_cache_total")
                && line.contains("cache=\"foreign\"")
                && line.contains("outcome=\"miss\"")
        });
        line.unwrap()
            .rsplit_once(' ')
            .unwrap()
            .1
            .parse::<u64>()
            .unwrap()
    };
    for odd in [
        "",
        "x",
        &TEXT[1..],
        &TEXT.replace('-', "_"),
        &TEXT.replacen("4d2a", "1d2a", 1),
        &format!("{TEXT} "),
        &format!("kw_{TEXT}"),
    ] {
        assert_eq!(
            client.verify(odd).await.unwrap(),
            Verdict::Malformed,
            "{odd}"
        );
    }
    assert_eq!(lookups().await, 0);
    for _ in 0..3 {
        assert_eq!(client.verify(TEXT).await.unwrap(), Verdict::NotFound);
    }
    assert_eq!(lookups().await, 1, "what is not there is remembered");
    let (plain, client) = start().await;
    assert_eq!(verdict(&plain, &client, TEXT).await, Verdict::Malformed);
}

/// A dead key never lives again under another scheme, whether or not its text is in memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_dead_if_a_key_under_any_scheme_is() {
    let (local, client) = start_with_uuids().await;
    let mut number = 0;
    for first in 0..SCHEMES {
        for second in (0..SCHEMES).filter(|second| *second != first) {
            number += 3;
            // The second is imported after the death of the first, and dies after its import.
            let (one, two) = (text(number), text(number + 1));
            let dead = import(&local, &one, number, first).await;
            assert_eq!(verdict(&local, &client, &one).await, Verdict::Valid);
            client.revoke(&dead).await.unwrap();
            assert_eq!(verdict(&local, &client, &one).await, Verdict::Revoked);
            import(&local, &one, number + 100, second).await;
            assert_eq!(verdict(&local, &client, &one).await, Verdict::Revoked);

            import(&local, &two, number + 1, first).await;
            assert_eq!(verdict(&local, &client, &two).await, Verdict::Valid);
            let twin = import(&local, &two, number + 101, second).await;
            assert_eq!(verdict(&local, &client, &two).await, Verdict::Valid);
            let shown = client.send(verifying(&two)).await.unwrap().key_id;
            assert!(shown < twin, "the oldest answers");
            client.revoke(&twin).await.unwrap();
            assert_eq!(verdict(&local, &client, &two).await, Verdict::Revoked);
        }
    }
}

/// What is in memory says nothing about a key that was imported afterwards and has died since.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_outdates_what_was_known_of_its_text() {
    let (local, client) = start_with_uuids().await;
    import(&local, TEXT, 1, 0).await;
    assert_eq!(client.verify(TEXT).await.unwrap(), Verdict::Valid);
    let twin = import(&local, TEXT, 2, 1).await;
    // Its first change, and no Verify in between.
    client.revoke(&twin).await.unwrap();
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_with_several_keys_is_revoked_by_its_oldest() {
    let (local, client) = start_with_uuids().await;
    let newer = import(&local, TEXT, 9, 0).await;
    let older = import(&local, TEXT, 3, 2).await;
    assert!(older < newer);
    for _ in 0..2 {
        let revoked = client.send(by_text(TEXT)).await.unwrap();
        assert_eq!(revoked.revoked.len(), 1);
        assert_eq!(revoked.revoked[0].key_id, older);
    }
    assert_eq!(verdict(&local, &client, TEXT).await, Verdict::Revoked);
    let shown = client.send(getting_by_text(TEXT)).await.unwrap();
    assert_eq!(shown.key.unwrap().key_id, older);
}

/// It would not see that a text names a revoked key.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_an_import_secret_of_the_store_does_not_verify() {
    let (local, client) = start_with_uuids().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let (other, _) = client.issue("43", "").await.unwrap();
    insert(&local, TEXT, 1, 0).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    // As another instance does that has the secret, before it imports.
    let mut hand = sqlite(&local.database()).await;
    let third = "INSERT INTO keyring_checks (kind, number, check_value) VALUES ('import', 3, randomblob(16))";
    sqlx::query(third).execute(&mut hand).await.unwrap();
    insert(&local, &text(2), 2, 0).await;
    // When this returns, the instance has applied the import, or its freshness has ended.
    let _ = client.revoke(&other).await;
    let refused = client.verify(&key).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let ready = http_get(local.app.http_address().unwrap(), "/readyz").await;
    assert!(
        ready.contains("Copy the file import-3 to its keyring"),
        "{ready}"
    );
}

/// While a read waits, the instance learns an import secret, and a key of the same text under it, which dies. That
/// Verify began before, so it may say VALID; but a near-cache would keep the key under its text.
#[tokio::test(flavor = "multi_thread")]
async fn no_near_cache_keeps_what_was_read_without_the_newest_import_secret() {
    let (local, faults) = Local::start_stalling(takes_uuids).await;
    let client = local.client().await;
    let asking = |text: &str| v1::VerifyRequest {
        want_cache_entry: true,
        ..verifying(text)
    };
    import(&local, TEXT, 1, 0).await;
    let kept = client.send(asking(TEXT)).await.unwrap();
    assert!(kept.cache_entry.is_some());
    for attempt in 0..10_u8 {
        let (text, number) = (text(attempt), 2 * attempt + 2);
        import(&local, &text, number, 0).await;
        faults.lookup.close();
        let (asker, asked) = (local.client().await, asking(&text));
        let answer = tokio::spawn(async move { asker.send(asked).await });
        faults.lookup.is_holding().await;
        let secret = ImportSecret::new(&[attempt; 16]).unwrap();
        let keyring = local.directory.path().join("keyring");
        keyring_files::add_import_secret(&keyring, None, &secret).unwrap();
        let is_loaded = async || {
            let status = client.send(v1::GetKeyringStatusRequest {}).await.unwrap();
            let newest = u32::from(attempt) + 3;
            status.keys.iter().any(|key| {
                key.kind() == v1::KeyringKeyKind::Import
                    && key.number == newest
                    && !key.loaded_by.is_empty()
            })
        };
        eventually("the instance has the secret", PATIENCE, is_loaded).await;
        let twin = insert(&local, &text, number + 1, SCHEMES + usize::from(attempt)).await;
        client.revoke(&twin).await.unwrap();
        faults.lookup.open();
        let Ok(answer) = answer.await.unwrap() else {
            // The instance took so long that the read was given up.
            continue;
        };
        assert_eq!(answer.verdict(), Verdict::Valid);
        assert_eq!(answer.cache_entry, None);
        let next = client.send(asking(&text)).await.unwrap();
        assert_eq!(next.verdict(), Verdict::Revoked);
        return;
    }
    panic!("no read waited long enough");
}
