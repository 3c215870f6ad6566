//! The keyring of a running instance: new files, activation, retirement, and its status.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use keyward::system::SystemEntropy;
use keyward_crypto::{KeyKind, keyring_files};
use keyward_proto::v1::{self, KeyringKeyKind as Kind, KeyringKeyState as State, Verdict};
use keyward_testkit::{Local, PATIENCE, eventually, refused};
use tonic::{Code, Status};

use super::*;

fn activating(kind: Kind, number: u32) -> v1::ActivateKeyringKeyRequest {
    let kind = kind.into();
    v1::ActivateKeyringKeyRequest { kind, number }
}

async fn retire(client: &Client, kind: Kind, number: u32) -> Result<(), Status> {
    let kind = kind.into();
    let retired = client.send(v1::RetireKeyringKeyRequest { kind, number });
    retired.await.map(drop)
}

/// A key in the status, if the service knows it.
async fn key(client: &Client, kind: Kind, number: u32) -> Option<v1::KeyringKey> {
    let status = client.send(v1::GetKeyringStatusRequest {}).await.unwrap();
    let mut keys = status.keys.into_iter();
    keys.find(|key| key.kind() == kind && key.number == number)
}

/// Adds the next file, and waits until the instance has loaded it.
async fn add(local: &Local, client: &Client, kind: KeyKind) {
    let directory = local.directory.path().join("keyring");
    let name = keyring_files::add(&directory, kind, None, &SystemEntropy).unwrap();
    let kind = match kind {
        KeyKind::Seal => Kind::Seal,
        _ => Kind::Generation,
    };
    eventually("the instance loads a new file", PATIENCE, || async {
        let found = key(client, kind, name.number).await;
        found.is_some_and(|key| key.loaded_by == ["this instance"])
    })
    .await;
}

/// Waits until the instance follows an activation: then it makes new keys with the active ones.
async fn is_followed(client: &Client, generation: u32) {
    let mut slot = 0;
    eventually("a new key has the active generation", PATIENCE, || {
        slot += 1;
        async move {
            let before = key(client, Kind::Generation, generation).await.unwrap();
            client.issue("followed", &slot.to_string()).await.unwrap();
            let after = key(client, Kind::Generation, generation).await.unwrap();
            after.live_keys > before.live_keys
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_and_seals_rotate_while_every_key_stays_valid() {
    let (local, client) = start().await;
    let old = client.send(recoverable("42")).await.unwrap();
    add(&local, &client, KeyKind::Generation).await;
    add(&local, &client, KeyKind::Seal).await;
    let loaded = key(&client, Kind::Seal, 2).await.unwrap();
    assert_eq!(
        loaded.state(),
        State::Loaded,
        "a file alone activates nothing"
    );
    client.send(activating(Kind::Generation, 2)).await.unwrap();
    client.send(activating(Kind::Seal, 2)).await.unwrap();
    client.send(activating(Kind::Seal, 2)).await.unwrap();
    is_followed(&client, 2).await;
    assert_eq!(client.verify(&old.api_key).await.unwrap(), Verdict::Valid);

    let outcome = retire(&client, Kind::Generation, 1).await;
    let message = outcome.as_ref().unwrap_err().message().to_owned();
    assert!(message.contains("1 tokens"), "{message}");
    assert!(message.contains("WHERE generation = 1"), "{message}");
    refused(outcome, Code::FailedPrecondition, "KEYRING_KEY_IN_USE");

    eventually("sealed copies move", PATIENCE, || async {
        key(&client, Kind::Seal, 1).await.unwrap().sealed_copies == 0
    })
    .await;
    retire(&client, Kind::Seal, 1).await.unwrap();
    retire(&client, Kind::Seal, 1).await.unwrap();
    let shown = client.send(recoverable("42")).await.unwrap();
    assert_eq!(shown.api_key, old.api_key, "it is opened by the new seal");

    // The keys and the token of generation 1 are replaced.
    let token = client.token("new", &[Role::Admin]).await.unwrap();
    let admin = Client::new(local.app.grpc_address(), Some(&token)).await;
    for account in ["42", "followed"] {
        client.send(by_account(account)).await.unwrap();
    }
    let tokens = admin.send(v1::ListTokensRequest::default()).await.unwrap();
    let first = &tokens.caller_tokens[0].token_id;
    admin.send(revoking_token(first)).await.unwrap();
    retire(&admin, Kind::Generation, 1).await.unwrap();
    let retired = key(&admin, Kind::Generation, 1).await.unwrap();
    assert_eq!(retired.state(), State::Retired);
    assert_eq!((retired.live_keys, retired.live_tokens), (0, 0));
    let outcome = admin.send(activating(Kind::Generation, 1)).await;
    refused(outcome, Code::NotFound, "KEYRING_KEY_NOT_FOUND");

    for name in ["generation-1", "seal-1"] {
        fs::remove_file(local.directory.path().join("keyring").join(name)).unwrap();
    }
    let local = local.restart().await;
    let admin = Client::new(local.app.grpc_address(), Some(&token)).await;
    let active = key(&admin, Kind::Generation, 2).await.unwrap();
    assert_eq!(active.state(), State::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing() {
    let (local, client) = start().await;
    let (_, issued) = client.issue("42", "").await.unwrap();
    let directory = local.directory.path().join("keyring");
    let bad = directory.join("generation-2");
    let half = &fs::read(directory.join("generation-1")).unwrap()[..60];
    fs::write(&bad, half).unwrap();
    fs::set_permissions(&bad, Permissions::from_mode(0o600)).unwrap();
    // Nothing is loaded beside it.
    let seal = keyring_files::add(&directory, KeyKind::Seal, Some(2), &SystemEntropy);
    assert!(seal.is_err(), "the command refuses the keyring, too");
    fs::copy(&bad, directory.join("seal-2")).unwrap();
    let outcome = client.send(activating(Kind::Generation, 2)).await;
    refused(outcome, Code::NotFound, "KEYRING_KEY_NOT_FOUND");
    fs::remove_file(bad).unwrap();
    fs::remove_file(directory.join("seal-2")).unwrap();
    add(&local, &client, KeyKind::Generation).await;
    assert_eq!(key(&client, Kind::Seal, 2).await, None);
    assert_eq!(client.verify(&issued).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_key_that_was_never_used_is_dropped_by_a_retirement() {
    let (local, client) = start().await;
    add(&local, &client, KeyKind::Generation).await;
    let file = local.directory.path().join("keyring/generation-2");
    fs::remove_file(&file).unwrap();
    retire(&client, Kind::Generation, 2).await.unwrap();
    assert_eq!(key(&client, Kind::Generation, 2).await, None);
    // Another key can have its number.
    add(&local, &client, KeyKind::Generation).await;
    assert!(file.exists());
    client.send(activating(Kind::Generation, 2)).await.unwrap();
    is_followed(&client, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn some_keys_are_neither_activated_nor_retired() {
    let (_local, client) = start().await;
    for kind in [Kind::Generation, Kind::Seal, Kind::Foreign, Kind::Import] {
        let outcome = retire(&client, kind, 1).await;
        refused(outcome, Code::FailedPrecondition, "KEYRING_KEY_IN_USE");
    }
    for (kind, number) in [
        (Kind::Foreign, 1),
        (Kind::Import, 1),
        (Kind::Unspecified, 1),
        (Kind::Generation, 0),
    ] {
        let outcome = client.send(activating(kind, number)).await;
        refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
    }
    for kind in [Kind::Generation, Kind::Seal] {
        let outcome = client.send(activating(kind, 7)).await;
        refused(outcome, Code::NotFound, "KEYRING_KEY_NOT_FOUND");
        let outcome = retire(&client, kind, 7).await;
        refused(outcome, Code::NotFound, "KEYRING_KEY_NOT_FOUND");
    }
    let foreign = key(&client, Kind::Foreign, 1).await.unwrap();
    assert_eq!(foreign.state(), State::Required);
}
