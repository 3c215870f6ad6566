//! An agent's Verify beside the server's own.

use std::fmt::Write as _;

use keyward_testkit::AgentProcess;
use keyward_testkit::machine::pin;

use super::h2load::{Call, costs};
use super::{KEYS, Keyward, VERIFY, publish, verifying};

const LOCAL: &str = "local-token-of-the-benchmark";

/// Compares an agent on a port and on a socket with the server, and writes the table.
pub(super) async fn measure() {
    let keyward = Keyward::start(None).await;
    let directory = tempfile::tempdir().unwrap();
    let (own, local) = (
        directory.path().join("own.token"),
        directory.path().join("local.token"),
    );
    std::fs::write(&own, keyward.process.token()).unwrap();
    keyward_testkit::write_secret(&local, LOCAL);
    let url = format!("http://{}", keyward.process.grpc);
    let start = |with: &dyn Fn(&mut std::process::Command)| {
        let mut command = AgentProcess::command(env!("CARGO_BIN_EXE_keyward"), &url, &own);
        with(&mut command);
        let agent = AgentProcess::start(command);
        pin(agent.id(), 0);
        agent
    };
    let port = start(&|command| AgentProcess::with_token(command, &local));
    let socket = start(&|command| AgentProcess::with_sockets(command, directory.path()));
    for (agent, token) in [(&port, Some(LOCAL)), (&socket, None)] {
        let answer = agent.client(token).await.verify(&keyward.key).await;
        assert_eq!(answer.unwrap(), keyward.answer.verdict());
    }

    let hit = verifying(&keyward.key);
    let at_port = port.grpc.parse().unwrap();
    let path = socket.grpc.strip_prefix("unix:").unwrap();
    let call = |name, server, token| Call::grpc(name, server, (VERIFY, 1), token, &hit);
    let process = &keyward.process;
    let token = process.token();
    let calls = [
        call(
            "Keyward, a port",
            ("http", process.grpc, process.id()),
            &token,
        ),
        call("an agent, a port", ("http", at_port, port.id()), LOCAL),
        // The socket's mode says who may ask.
        call("an agent, a socket", ("http", at_port, socket.id()), "")
            .over_socket(path)
            .without_token(),
    ];
    let costs = costs(&calls, KEYS);
    let mut table = String::from(
        "| Verify of a known key | us of CPU | x the server's own | calls/s on one core |\n|---|---|---|---|\n",
    );
    for (call, (used, rate)) in calls.iter().zip(&costs) {
        let times = used / costs[0].0;
        let _ = writeln!(
            table,
            "| {} | {used:.2} | {times:.2} | {rate:.0} |",
            call.name
        );
    }
    publish("agent", &table);
}
