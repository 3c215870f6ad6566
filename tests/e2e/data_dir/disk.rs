//! A full disk, simulated by a file-size limit: writes stop, Verify continues, and no acknowledged
//! change is lost.

use keyward_proto::v1::Verdict;
use keyward_testkit::without_settings;
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::*;

/// More issues than the limit below lets through.
const MANY: usize = 2_000;

/// The same command in a shell that lets no file grow over so many blocks of 512 bytes.
fn limited(command: &Command, blocks: u32) -> Command {
    let mut shell = without_settings("sh");
    shell
        .arg("-c")
        .arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\""))
        .arg(command.get_program())
        .args(command.get_args());
    shell
}

/// Asserts that a write failed for want of room: nothing was changed, or the end of the
/// transaction is what failed, and nobody can know.
#[track_caller]
fn unwritten(status: &Status) {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let reason = reason.as_deref();
    let known = [Some("STORE_UNAVAILABLE"), Some("OUTCOME_UNKNOWN")];
    assert!(known.contains(&reason), "{status}");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_writes_and_nothing_else() {
    let (_directory, data_dir) = fresh_directory();
    let mut first = serve(&data_dir);
    let (_, before) = first.client().await.issue("before", "").await.unwrap();
    assert!(first.stop().success());

    let start = || {
        let command = limited(&Process::command(BINARY, &data_dir), 2_048);
        Process::start(command, &data_dir)
    };
    let mut full = start();
    let client = full.client().await;
    let victim = client.issue("42", "victim").await.unwrap();
    let mut acknowledged = Vec::new();
    let refusal = loop {
        assert!(acknowledged.len() < MANY, "the limit does not hold");
        let slot = format!("slot-{}", acknowledged.len());
        match client.issue("42", &slot).await {
            Ok(issued) => acknowledged.push(issued),
            Err(status) => break status,
        }
    };
    unwritten(&refusal);
    for round in 0..3 {
        for (_, key) in &acknowledged {
            assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
        }
        assert_eq!(
            client.verify_strongly(&before).await.unwrap(),
            Verdict::Valid
        );
        let outcome = client.issue("more", &format!("slot-{round}")).await;
        unwritten(&outcome.unwrap_err());
        unwritten(&client.revoke(&victim.0).await.unwrap_err());
        assert_eq!(client.health().await, ServingStatus::Serving);
    }
    full.kill();
    // A restart needs no room.
    let mut full = start();
    let client = full.client().await;
    for (_, key) in &acknowledged {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
    }
    unwritten(&client.revoke(&victim.0).await.unwrap_err());
    full.kill();

    let again = serve(&data_dir);
    let client = again.client().await;
    for (id, key) in &acknowledged {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
        assert_eq!(&client.get(id).await.unwrap().key_id, id);
    }
    assert_eq!(client.verify(&before).await.unwrap(), Verdict::Valid);
    client.issue("more", "again").await.unwrap();
    client.revoke(&victim.0).await.unwrap();
    assert_eq!(client.verify(&victim.1).await.unwrap(), Verdict::Revoked);
}
