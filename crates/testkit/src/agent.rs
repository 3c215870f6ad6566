//! `keyward agent` as a process.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use tonic::transport::{Channel, Endpoint};

use crate::process::without_settings;
use crate::{Client, Program};

/// The constant part of the ready line.
const READY: &str = "keyward agent is ready: gRPC on ";

/// A running agent. Killed when dropped.
pub struct AgentProcess {
    program: Program,
    /// Where it takes calls by gRPC: an address, or `unix:PATH`.
    pub grpc: String,
    /// Where it takes calls by HTTP, or `off`.
    pub http: String,
    /// The address of its side port.
    pub side: std::net::SocketAddr,
}

impl AgentProcess {
    /// The command that starts `binary` as an agent of these instances with the token in this file. It still
    /// has to name who may ask.
    pub fn command(binary: &str, endpoints: &str, token_file: &Path) -> Command {
        let directory = token_file.parent().unwrap_or(token_file);
        let mut command = Self::without_token(binary, endpoints, directory);
        command.arg("--token-file").arg(token_file);
        command
    }

    /// The same in this directory, of an agent that still has to show who it is.
    pub fn without_token(binary: &str, endpoints: &str, directory: &Path) -> Command {
        let mut command = without_settings(binary);
        command
            .current_dir(directory)
            .args(["agent", "--endpoint", endpoints])
            .args(["--side-listen", "127.0.0.1:0"]);
        command
    }

    /// Lets programs that send the token in this file ask, on free ports.
    pub fn with_token(command: &mut Command, local_token_file: &Path) {
        command
            .args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .arg("--local-token-file")
            .arg(local_token_file);
    }

    /// Lets programs of this user ask, on sockets in this directory.
    pub fn with_sockets(command: &mut Command, directory: &Path) {
        let socket = |name: &str| format!("unix:{}", directory.join(name).display());
        command
            .args(["--listen", &socket("agent.sock")])
            .args(["--http-listen", &socket("agent-http.sock")]);
    }

    /// Starts `command` and waits until the agent is ready.
    pub fn start(command: Command) -> Self {
        let program = Program::start("keyward agent", command, READY);
        let addresses = program
            .ready()
            .split_once(", metrics and probes on ")
            .and_then(|(ports, side)| Some((ports.split_once(", JSON ")?, side)));
        let ((grpc, http), side) = addresses.expect("the ready line names each port");
        Self {
            grpc: grpc.to_owned(),
            http: http.strip_prefix("on ").unwrap_or(http).to_owned(),
            side: side.parse().expect("an address"),
            program,
        }
    }

    /// A client with `token`, or without a token.
    pub async fn client(&self, token: Option<&str>) -> Client {
        Client::over(self.channel().await, token)
    }

    /// A connection by gRPC.
    pub async fn channel(&self) -> Channel {
        let url = match self.grpc.starts_with("unix:") {
            true => self.grpc.clone(),
            false => format!("http://{}", self.grpc),
        };
        let endpoint = Endpoint::from_shared(url).expect("an address makes an endpoint");
        let connected = endpoint.connect().await;
        connected.expect("the agent takes connections")
    }
}

impl Deref for AgentProcess {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for AgentProcess {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
