//! A webhook that fails.

use keyward_testkit::{PATIENCE, Process, Reaction, Receiver, eventually};

use super::{Operator, RUNBOOKS, blocks};
use crate::{BINARY, fresh_directory};

#[tokio::test(flavor = "multi_thread")]
async fn events_for_a_webhook_that_failed_are_sent_again() {
    let (directory, data) = fresh_directory();
    let receiver = Receiver::start();
    let mut command = Process::command(BINARY, &data);
    command.env(
        "KEYWARD_WEBHOOKS",
        receiver.webhook("billing", directory.path()),
    );
    let mut process = Process::start(command, &data);
    let mut operator = Operator::new(directory.path());
    operator.set("KEYWARD_ENDPOINT", format!("http://{}", process.grpc));
    operator.set("KEYWARD_TOKEN_FILE", data.join("admin.token").display());
    operator.set("WEBHOOK", "billing");
    receiver.react(Reaction::Status(410));
    process.client().await.issue("42", "").await.unwrap();
    let is_gone = || async { process.output().contains("the receiver is gone") };
    eventually("the receiver is gone", PATIENCE, is_gone).await;
    let steps = blocks(RUNBOOKS, "## A webhook fails");
    let [look, replay] = &steps[..] else {
        panic!("{steps:?}")
    };
    let (code, printed) = operator.runs(look);
    assert_eq!(code, 1, "{printed}");
    assert!(
        printed.contains("410") && printed.contains("true"),
        "{printed}"
    );
    receiver.react(Reaction::Status(200));
    operator.does(replay);
    let has_all = || async { receiver.messages().len() == 3 };
    eventually("the event arrives", PATIENCE, has_all).await;
    assert_eq!(receiver.messages()[0].id(), receiver.messages()[2].id());
    assert!(process.stop().success());
}
