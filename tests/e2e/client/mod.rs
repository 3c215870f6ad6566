//! The client crate and its layer against the real service.

mod calls;
mod example;
mod layer;

use keyward_client::{Builder, Client};
use keyward_proto::v1::Role;
use keyward_testkit::requests::creating_token;
use keyward_testkit::{HttpAnswer, PATIENCE, Process, http_ask};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Keyward as a process, and a directory for the files of its callers.
struct Keyward {
    process: Process,
    directory: tempfile::TempDir,
}

impl Keyward {
    fn start() -> Self {
        let (directory, data) = crate::fresh_directory();
        let process = crate::serve(&data);
        Self { process, directory }
    }

    /// Starts the service again on the same address.
    fn start_again(&mut self) {
        let data = self.directory.path().join("data");
        let binary = crate::BINARY;
        let command = Process::command_on(binary, &data, self.process.grpc);
        self.process = Process::start(command, &data);
    }

    fn url(&self) -> String {
        format!("http://{}", self.process.grpc)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Creates a token with these roles. Returns its ID and a file with the token.
    async fn token(&self, name: &str, roles: &[Role]) -> (String, PathBuf) {
        let file = self.path(name);
        let id = self.token_into(&file, name, roles).await;
        (id, file)
    }

    async fn token_into(&self, file: &Path, name: &str, roles: &[Role]) -> String {
        let admin = self.process.client().await;
        let made = admin.send(creating_token(name, roles)).await.unwrap();
        std::fs::write(file, made.token + "\n").unwrap();
        made.caller_token.unwrap().token_id
    }

    /// A client with the token in `file`, and with time limits for a busy machine.
    fn client(&self, file: &Path) -> Client {
        self.builder(file).build().unwrap()
    }

    fn builder(&self, file: &Path) -> Builder {
        let builder = Client::builder().endpoint(self.url()).token_file(file);
        builder.timeout(PATIENCE).change_timeout(PATIENCE)
    }
}

/// Serves `app` until the runtime ends.
async fn serve(app: axum::Router) -> SocketAddr {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = tokio::net::TcpListener::bind(any).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Sends a request with these headers; a `body` makes it a POST of JSON.
async fn ask(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> HttpAnswer {
    let mut headers = headers.to_vec();
    let method = match body {
        Some(_) => "POST",
        None => "GET",
    };
    headers.extend(body.map(|_| ("content-type", "application/json")));
    let answer = http_ask(address, method, path, &headers, body.unwrap_or_default()).await;
    answer.unwrap()
}
