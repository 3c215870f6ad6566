//! The database under another name, moved, replaced, or without its lock. Two instances never share
//! it, and Keyward acknowledges no change that the next start would not find.

use std::fs;
use std::path::{Path, PathBuf};

use keyward_proto::v1::Verdict;
use tonic::Code;

use super::*;

/// The command that serves `database`, with the keyring and the token of `data_dir`.
fn serving(data_dir: &Path, database: &Path) -> Command {
    let mut command = Process::command(BINARY, data_dir);
    command
        .arg("--store")
        .arg(format!("sqlite:{}", database.display()));
    command
}

fn second_directory(directory: &tempfile::TempDir) -> PathBuf {
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_the_database_is_the_same_database() {
    let (directory, data_dir) = fresh_directory();
    let process = serve(&data_dir);
    let database = data_dir.join("keyward.db");
    let other = second_directory(&directory);
    for (name, hard) in [("soft.db", false), ("hard.db", true)] {
        let link = other.join(name);
        let made = if hard {
            fs::hard_link(&database, &link)
        } else {
            std::os::unix::fs::symlink(&database, &link)
        };
        made.unwrap();
        let said = refusal_of(serving(&data_dir, &link));
        assert!(
            said.contains("is held by another keyward"),
            "{name}: {said}"
        );
    }
    process.client().await.issue("42", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_lock_lets_no_second_process_in() {
    let (_directory, data_dir) = fresh_directory();
    let process = serve(&data_dir);
    fs::remove_file(data_dir.join("lock")).unwrap();
    let said = refusal_of(Process::command(BINARY, &data_dir));
    assert!(said.contains("is held by another keyward"), "{said}");
    process.client().await.issue("42", "").await.unwrap();
}

/// What is acknowledged after the file was swapped would be gone with the process: so nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_replaced_is_noticed_before_anything_is_acknowledged() {
    let (directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let client = process.client().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let away = second_directory(&directory);
    let database = data_dir.join("keyward.db");
    fs::rename(&database, away.join("keyward.db")).unwrap();
    fs::copy(away.join("keyward.db"), &database).unwrap();

    let refused = client.revoke(&id).await.unwrap_err();
    assert_ne!(refused.code(), Code::Ok);
    let answer = loop {
        match client.verify(&key).await {
            // Until the next heartbeat the instance is still fresh as of the last one.
            Ok(Verdict::Valid) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    process.kill();
}
