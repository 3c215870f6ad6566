//! `keyward agent` as a process beside its callers: by gRPC and HTTP, on ports and on sockets.

mod callers;
mod certificate;
mod outages;
mod start;
mod verdicts;

use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_proto::v1::Role;
use keyward_testkit::requests::checking;
use keyward_testkit::{
    AgentProcess, Client, HttpAnswer, Process, http_ask, http_ask_unix, write_secret,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::{BINARY, fresh_directory};

/// The token that local programs send.
const LOCAL: &str = "local-token-0123456789abcdef";
/// The roles of the agent's own token.
const ROLES: [Role; 2] = [Role::NearCache, Role::Verifier];

/// How local programs reach an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Ports, with a token.
    Ports,
    /// Sockets, whose mode says who may ask.
    Sockets,
}

/// Keyward, its agent, and a key.
struct World {
    agent: AgentProcess,
    keyward: Process,
    admin: Client,
    /// The agent's own token.
    own: String,
    local: Option<&'static str>,
    directory: tempfile::TempDir,
}

impl World {
    async fn start(by: By) -> Self {
        Self::start_with(by, |_| ()).await
    }

    /// With more arguments for the agent.
    async fn start_with(by: By, more: impl FnOnce(&mut Command)) -> Self {
        let keyward = Site::start().await;
        let endpoint = keyward.url();
        keyward.agent(by, &endpoint, more)
    }

    /// The client of a local program.
    async fn program(&self) -> Client {
        self.agent.client(self.local).await
    }

    /// What the HTTP port answers.
    async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> HttpAnswer {
        let answer = match self.agent.http.strip_prefix("unix:") {
            Some(socket) => http_ask_unix(Path::new(socket), method, path, headers, body).await,
            None => {
                let address = self.agent.http.parse().unwrap();
                http_ask(address, method, path, headers, body).await
            }
        };
        answer.unwrap()
    }

    /// What `/auth` says of a key to a local proxy.
    async fn auth(&self, key: &str) -> HttpAnswer {
        let mut headers = vec![("apikey", key)];
        headers.extend(self.local.map(|local| ("x-keyward-token", local)));
        self.http("GET", "/auth", &headers, "").await
    }

    /// What the JSON form of Verify says of a key to a local program.
    async fn json(&self, key: &str) -> HttpAnswer {
        let bearer = self.local.map(|local| format!("Bearer {local}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        let body = serde_json::json!({"apiKey": key}).to_string();
        self.http("POST", "/v1/keys:verify", &headers, &body).await
    }

    /// A number of the agent's metrics.
    async fn metric(&self, line: &str) -> u64 {
        metric(self.agent.side, line).await
    }
}

/// Keyward and a token for an agent.
struct Site {
    keyward: Process,
    admin: Client,
    own: String,
    directory: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let (directory, data) = fresh_directory();
        let mut command = Process::command(BINARY, &data);
        command.env("KEYWARD_MAX_STALENESS", "2s");
        let keyward = Process::start(command, &data);
        let admin = keyward.client().await;
        let own = admin.token("agent", &ROLES).await.unwrap();
        std::fs::write(directory.path().join("own.token"), &own).unwrap();
        write_secret(&directory.path().join("local.token"), &format!("{LOCAL}\n"));
        Self {
            keyward,
            admin,
            own,
            directory,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.keyward.grpc)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command of an agent that still has to name who may ask.
    fn command(&self, endpoint: &str) -> Command {
        AgentProcess::command(BINARY, endpoint, &self.path("own.token"))
    }

    /// Starts an agent of `endpoint`.
    fn agent(self, by: By, endpoint: &str, more: impl FnOnce(&mut Command)) -> World {
        let mut command = self.command(endpoint);
        match by {
            By::Ports => AgentProcess::with_token(&mut command, &self.path("local.token")),
            By::Sockets => AgentProcess::with_sockets(&mut command, self.directory.path()),
        }
        more(&mut command);
        World {
            agent: AgentProcess::start(command),
            keyward: self.keyward,
            admin: self.admin,
            own: self.own,
            local: (by == By::Ports).then_some(LOCAL),
            directory: self.directory,
        }
    }
}

/// The number in a line of metrics that starts so.
async fn metric(side: std::net::SocketAddr, line: &str) -> u64 {
    keyward_testkit::metric(side, line).await.unwrap_or(0)
}

/// Asks by reflection for a large file, so many `times`. If the client `stays`, the call has no end.
async fn reflection(
    channel: &Channel,
    times: usize,
    stays: bool,
) -> Streaming<ServerReflectionResponse> {
    let symbol = "keyward.v1.ApiKeyService".to_owned();
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::FileContainingSymbol(symbol)),
        ..Default::default()
    };
    let requests = tokio_stream::iter(std::iter::repeat_n(request, times));
    let mut client = ServerReflectionClient::new(channel.clone());
    let asked = match stays {
        true => {
            let requests = requests.chain(tokio_stream::pending());
            client.server_reflection_info(requests).await
        }
        false => client.server_reflection_info(requests).await,
    };
    asked.unwrap().into_inner()
}

/// The status in the answer of Envoy's Check of a key.
async fn check(client: &Client, token: Option<&str>, key: &str) -> Result<i32, Status> {
    let client = Client::over(client.channel.clone(), token);
    let checked = client.send(checking(key)).await?;
    Ok(checked.status.unwrap().code)
}
