//! A keyring that is missing, truncated, changed or foreign stops the start. A store with keys
//! never gets a new keyring.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use keyward::system::SystemEntropy;
use keyward_crypto::{ImportSecret, keyring_files};
use keyward_proto::v1::Verdict;
use keyward_testkit::{PATIENCE, eventually, sqlite};

use super::*;

/// A stopped deployment with one key.
struct Deployment {
    _directory: tempfile::TempDir,
    data_dir: PathBuf,
    key: String,
}

impl Deployment {
    async fn new() -> Self {
        let (directory, data_dir) = fresh_directory();
        let mut process = serve(&data_dir);
        let (_, key) = process.client().await.issue("42", "").await.unwrap();
        assert!(process.stop().success());
        Self {
            _directory: directory,
            data_dir,
            key,
        }
    }

    fn keyring(&self) -> PathBuf {
        self.data_dir.join("keyring")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.keyring().join(name)
    }

    /// Adds generation 2 to the keyring, as an operator does before a rotation.
    fn add_generation_2(&self) {
        let other = self.data_dir.join("other");
        keyring_files::generate(&other, &SystemEntropy).unwrap();
        let first = fs::read_to_string(other.join("generation-1")).unwrap();
        let second = first.replace("generation = 1", "generation = 2");
        let (covered, _) = second.rsplit_once("crc32 = ").unwrap();
        let crc = crc32fast::hash(covered.as_bytes());
        let path = self.file("generation-2");
        fs::write(&path, format!("{covered}crc32 = {crc:08x}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// The generations that keys were born in.
    async fn generations(&self) -> Vec<u32> {
        let mut store = sqlite(&self.data_dir.join("keyward.db")).await;
        let found = sqlx::query_scalar("SELECT generation FROM api_keys ORDER BY key_id");
        found.fetch_all(&mut store).await.unwrap()
    }

    /// Every file of the keyring with what it holds.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let Ok(entries) = fs::read_dir(self.keyring()) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = paths
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    /// Asserts that the start is refused with `message`, and leaves the keyring as it is.
    #[track_caller]
    fn refuses(&self, message: &str) {
        let before = self.files();
        let said = refusal_of(Process::command(BINARY, &self.data_dir));
        assert!(said.contains(message), "{said}");
        assert_eq!(self.files(), before, "the keyring was touched");
        let beside = fs::read_dir(&self.data_dir).unwrap();
        let names = beside.map(|entry| entry.unwrap().file_name());
        let hidden = names.filter(|name| name.to_string_lossy().contains(".keyring."));
        assert_eq!(hidden.count(), 0);
    }

    /// Asserts that all is well again.
    async fn serves(&self) {
        let mut process = serve(&self.data_dir);
        let client = process.client().await;
        assert_eq!(client.verify(&self.key).await.unwrap(), Verdict::Valid);
        assert!(process.stop().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_keyring_is_not_replaced() {
    let deployment = Deployment::new().await;
    let away = deployment.data_dir.join("away");
    fs::rename(deployment.keyring(), &away).unwrap();
    deployment.refuses("there is no keyring in");
    assert!(!deployment.keyring().exists());
    fs::create_dir(deployment.keyring()).unwrap();
    deployment.refuses("restore it from its backup");

    fs::remove_dir(deployment.keyring()).unwrap();
    fs::rename(away, deployment.keyring()).unwrap();
    deployment.serves().await;
}

/// This holds even if the store no longer knows its keyring.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_keys_never_gets_a_new_keyring() {
    let deployment = Deployment::new().await;
    by_hand(&deployment.data_dir, "DELETE FROM keyring_checks").await;
    let away = deployment.data_dir.join("away");
    fs::rename(deployment.keyring(), &away).unwrap();
    deployment.refuses("there is no keyring in");
    assert!(!deployment.keyring().exists());
    // An existing keyring is not trusted either, because it could belong to another deployment.
    fs::rename(away, deployment.keyring()).unwrap();
    deployment.refuses("no check values of its keyring");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_damaged_keyring_file_is_named() {
    let deployment = Deployment::new().await;
    for (name, message) in [
        ("generation-1", "holds no file generation-<number>"),
        ("seal-1", "holds no file seal-<number>"),
        ("foreign-1", "foreign 1 is missing from the keyring"),
    ] {
        let kept = fs::read(deployment.file(name)).unwrap();
        fs::write(deployment.file(name), &kept[..kept.len() / 2]).unwrap();
        deployment.refuses("cut short");
        fs::remove_file(deployment.file(name)).unwrap();
        deployment.refuses(message);
        fs::write(deployment.file(name), kept).unwrap();
        fs::set_permissions(deployment.file(name), Permissions::from_mode(0o600)).unwrap();
    }
    deployment.serves().await;
}

/// Without it, a revoked key that was imported by it would not be found.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_secret_that_was_in_use_is_never_left_out() {
    let deployment = Deployment::new().await;
    let secret = ImportSecret::new(b"the secret of a product").unwrap();
    keyring_files::add_import_secret(&deployment.keyring(), None, &secret).unwrap();
    deployment.serves().await;
    fs::remove_file(deployment.file("import-1")).unwrap();
    deployment.refuses("import 1 is missing from the keyring");
    let other = ImportSecret::new(b"the secret of another product").unwrap();
    keyring_files::add_import_secret(&deployment.keyring(), None, &other).unwrap();
    deployment.refuses("import 1 of the keyring");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_of_another_deployment_is_refused() {
    let (ours, theirs) = (Deployment::new().await, Deployment::new().await);
    let away = ours.data_dir.join("away");
    fs::rename(ours.keyring(), &away).unwrap();
    fs::rename(theirs.keyring(), ours.keyring()).unwrap();
    ours.refuses("does not belong to this store");

    // Nor half of it.
    fs::copy(away.join("generation-1"), ours.file("generation-1")).unwrap();
    ours.refuses("of the keyring");
    for name in ["seal-1", "foreign-1", "audit-1"] {
        fs::copy(away.join(name), ours.file(name)).unwrap();
    }
    ours.serves().await;
}

/// A generation that is not active makes no keys, because another instance may not have it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_not_activated_mints_nothing() {
    let deployment = Deployment::new().await;
    deployment.add_generation_2();
    let mut process = serve(&deployment.data_dir);
    let client = process.client().await;
    let (_, key) = client.issue("43", "").await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    assert!(process.stop().success());
    assert_eq!(deployment.generations().await, [1, 1]);

    // Nor does it stand in for the one that does.
    let kept = deployment.data_dir.join("kept");
    fs::rename(deployment.file("generation-1"), &kept).unwrap();
    deployment.refuses("generation 1 is missing from the keyring");
    fs::rename(kept, deployment.file("generation-1")).unwrap();
    fs::remove_file(deployment.file("generation-2")).unwrap();
    deployment.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_too_early_is_missed_before_the_restart() {
    let deployment = Deployment::new().await;
    let mut process = serve(&deployment.data_dir);
    deployment.add_generation_2();
    let text = fs::read(deployment.file("generation-1")).unwrap();
    fs::remove_file(deployment.file("generation-1")).unwrap();
    eventually("the log names the file", PATIENCE, async || {
        let said = process.output();
        said.contains("generation-1 is required, and its file is gone")
    })
    .await;
    let client = process.client().await;
    assert_eq!(
        client.verify(&deployment.key).await.unwrap(),
        Verdict::Valid
    );
    fs::write(deployment.file("generation-1"), text).unwrap();
    let private = Permissions::from_mode(0o600);
    fs::set_permissions(deployment.file("generation-1"), private).unwrap();
    assert!(process.stop().success());
    deployment.serves().await;
}
