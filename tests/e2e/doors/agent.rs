//! `keyward agent` as a process, whose doors are those of an instance.

use std::path::Path;

use keyward_proto::v1::Role;
use keyward_testkit::requests::creating_token;
use keyward_testkit::{AgentProcess, Client};
use parking_lot::Mutex;

use super::door::Instance;
use crate::BINARY;

/// Agents are counted from here, and instances below.
pub(super) const FIRST: usize = 1_000;
const LOCAL: &str = "local-token-of-the-doors";

/// An agent.
pub(super) struct Agent(Mutex<AgentProcess>);

impl Agent {
    /// Starts it, as a caller of its own, on ports. Returns a client of its doors, too.
    pub(super) async fn start(
        number: usize,
        admin: &Client,
        keyward: &[String],
        directory: &Path,
    ) -> (Self, Instance) {
        let roles = [Role::NearCache, Role::Verifier];
        let create = creating_token(&format!("agent-{number}"), &roles);
        let token = admin.send(create).await.expect("an admin makes tokens");
        let [own, local] = ["own", "local"].map(|name| directory.join(format!("{name}-{number}")));
        std::fs::write(&own, token.token).expect("a file is written");
        keyward_testkit::write_secret(&local, LOCAL);
        let mut command = AgentProcess::command(BINARY, &keyward.join(","), &own);
        AgentProcess::with_token(&mut command, &local);
        let process = AgentProcess::start(command);
        let addresses = [&process.grpc, &process.http];
        let [grpc, http] = addresses.map(|address| address.parse().expect("an address"));
        let doors = Instance::new(FIRST + number, (grpc, http), LOCAL, true).await;
        (Self(Mutex::new(process)), doors)
    }

    pub(super) fn pause(&self) {
        self.0.lock().pause();
    }

    pub(super) fn go_on(&self) {
        self.0.lock().go_on();
    }

    pub(super) fn kill(&self) {
        self.0.lock().kill();
    }
}
