//! Refused starts: the error says what to do, and the start leaves no trace.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use keyward_proto::v1::{self, Consistency, Role, Verdict};
use keyward_testkit::requests::{revoking_token, verifying};
use keyward_testkit::{PATIENCE, eventually, refused};
use tonic::Code;

use super::*;

/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// The command, run as a user who may not write what this one made.
fn as_nobody(mut command: Command) -> Command {
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_names_the_first() {
    let (_directory, data_dir) = fresh_directory();
    let first = serve(&data_dir);
    let client = first.client().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let said = refusal_of(Process::command(BINARY, &data_dir));
    let holder = format!("held by another keyward (process {})", first.id());
    assert!(said.contains(&holder), "{said}");
    assert!(said.contains("another data_dir"), "{said}");
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    client.issue("43", "").await.unwrap();
}

#[test]
fn a_port_in_use_leaves_no_trace() {
    const FLAGS: [&str; 3] = ["--listen", "--rest-listen", "--http-listen"];
    for flag in FLAGS {
        let (_directory, data_dir) = fresh_directory();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut command = Command::new(BINARY);
        command
            .env_clear()
            .arg("serve")
            .arg("--data-dir")
            .arg(&data_dir);
        for own in FLAGS {
            command
                .arg(own)
                .arg(if own == flag { &address } else { "127.0.0.1:0" });
        }
        let said = refusal_of(command);
        assert!(
            said.contains(&format!("cannot listen on {address}")),
            "{said}"
        );
        assert!(said.contains("in use"), "{said}");
        assert!(!data_dir.exists());
    }
}

#[test]
fn a_directory_that_may_not_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open.clone()).unwrap();
    // The other user must be able to reach the binary.
    let binary = directory.path().join("keyward");
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(&binary, open).unwrap();
    let data_dir = directory.path().join("data");
    fs::create_dir(&data_dir).unwrap();
    fs::set_permissions(&data_dir, Permissions::from_mode(0o555)).unwrap();

    let start_in = |data_dir: &Path| {
        refusal_of(as_nobody(Process::command(
            binary.to_str().unwrap(),
            data_dir,
        )))
    };
    let said = start_in(&data_dir);
    assert!(said.contains(data_dir.to_str().unwrap()), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    assert!(said.contains("belong to the user"), "{said}");
    assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0);

    let missing = data_dir.join("deeper");
    let said = start_in(&missing);
    assert!(said.contains(missing.to_str().unwrap()), "{said}");
    assert!(said.contains("cannot create the data directory"), "{said}");
    assert!(said.contains("data_dir"), "{said}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let (_directory, data_dir) = fresh_directory();
    fs::create_dir(&data_dir).unwrap();
    let database = data_dir.join("keyward.db");
    fs::write(&database, "no database ".repeat(1_000)).unwrap();
    let said = refusal_of(Process::command(BINARY, &data_dir));
    assert!(said.contains(database.to_str().unwrap()), "{said}");
    assert!(!data_dir.join("keyring").exists());
}

/// An operator who revoked the last admin token can get a new one by write access to the data
/// directory. The old file is never overwritten.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_token_can_be_had_again() {
    let (_directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let client = process.client().await;
    let token_id = client
        .send(v1::ListTokensRequest::default())
        .await
        .unwrap()
        .caller_tokens[0]
        .token_id
        .clone();
    client.send(revoking_token(&token_id)).await.unwrap();
    let dead = process.token();
    assert!(process.stop().success());

    // Until then the service accepts the other tokens and logs what is wrong.
    let mut process = serve(&data_dir);
    let said = process.output();
    assert!(
        said.contains("contains an old token. Move the file away"),
        "{said}"
    );
    assert!(process.stop().success());
    let file = data_dir.join("admin.token");
    fs::rename(&file, data_dir.join("admin.token.old")).unwrap();
    let process = serve(&data_dir);
    assert_ne!(process.token(), dead);
    process.client().await.issue("42", "").await.unwrap();
}

/// A token deleted by manual SQL stays deleted, even if its file is still there.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_deleted_by_hand_stays_away() {
    let (_directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let deleted = process.token();
    assert!(process.stop().success());
    by_hand(&data_dir, "DELETE FROM caller_tokens").await;

    let is_refused = async |process: &Process| {
        let outcome = Client::new(process.grpc, Some(&deleted)).await;
        let outcome = outcome.issue("42", "").await;
        refused(outcome, Code::Unauthenticated, "TOKEN_INVALID");
    };
    let mut process = serve(&data_dir);
    is_refused(&process).await;
    assert!(process.stop().success());
    fs::remove_file(data_dir.join("admin.token")).unwrap();
    let process = serve(&data_dir);
    is_refused(&process).await;
    process.client().await.issue("42", "").await.unwrap();
}

/// With an unmounted volume or a moved database, every key would be NOT_FOUND.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_not_replaced_by_an_empty_one() {
    let (_directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let (_, key) = process.client().await.issue("42", "").await.unwrap();
    assert!(process.stop().success());
    let (database, away) = (data_dir.join("keyward.db"), data_dir.join("away.db"));
    fs::rename(&database, &away).unwrap();
    for _ in 0..2 {
        let said = refusal_of(Process::command(BINARY, &data_dir));
        assert!(said.contains("the database is new"), "{said}");
    }
    for name in ["keyward.db", "keyward.db-wal", "keyward.db-shm"] {
        // The refused start may have left an empty one.
        let _ = fs::remove_file(data_dir.join(name));
    }
    fs::rename(&away, &database).unwrap();
    let process = serve(&data_dir);
    let client = process.client().await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
}

/// Waits until the log has a line with both texts.
async fn logged(process: &Process, texts: [&str; 2]) {
    let has_both = |line: &str| texts.iter().all(|text| line.contains(text));
    eventually(&texts.join(" and "), PATIENCE, async || {
        process.output().lines().any(has_both)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_read_is_a_fault_and_the_log_says_which() {
    for consistency in [Consistency::Default, Consistency::Strong] {
        let (_directory, data_dir) = fresh_directory();
        let process = serve(&data_dir);
        let admin = process.client().await;
        let token = admin.token("edge", &[Role::Verifier]).await.unwrap();
        by_hand(
            &data_dir,
            "UPDATE caller_tokens SET roles = 'verifier,root' WHERE name = 'edge'",
        )
        .await;
        let edge = Client::new(process.grpc, Some(&token)).await;
        let request = v1::VerifyRequest {
            consistency: consistency.into(),
            ..verifying("x")
        };
        let status = edge.send(request).await.unwrap_err();
        assert!(
            status.message().contains("its log has the details"),
            "{status}"
        );
        refused(Err::<(), _>(status), Code::Internal, "INTERNAL");
        logged(&process, ["a store call failed", "find_token"]).await;
    }
}
