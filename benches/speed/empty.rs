//! The server that everything is compared with: a default tonic server whose Verify does nothing.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_testkit::Identity;
use prost::Message as _;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity as Pem, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// The argument that makes a benchmark's process the server.
const ARGUMENT: &str = "--empty";

/// Answers every Verify with the same response.
struct Empty(v1::VerifyResponse);

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the benchmark calls only Verify"))
}

#[tonic::async_trait]
impl ApiKeyService for Empty {
    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        drop(request);
        Ok(Response::new(self.0.clone()))
    }

    async fn issue(
        &self,
        _: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::IssueResponse>, Status> {
        unimplemented()
    }

    async fn revoke(
        &self,
        _: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        unimplemented()
    }

    async fn verify_batch(
        &self,
        _: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        unimplemented()
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        unimplemented()
    }

    async fn list(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        unimplemented()
    }

    async fn update(
        &self,
        _: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        unimplemented()
    }
}

/// The empty server in a process of its own, on core 0. Killed when dropped.
pub(crate) struct EmptyServer {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl EmptyServer {
    /// Starts the server, with TLS if it has an identity.
    pub(crate) fn start(answer: &v1::VerifyResponse, tls: Option<&Identity>) -> Self {
        // A runtime that starts on one core has one thread.
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().unwrap())
            .args([ARGUMENT, &hex::encode(answer.encode_to_vec())])
            .args(tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().parse().unwrap();
        Self { child, address }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Runs `measure` with the arguments that are no flags, or the empty server if this process is one. `cargo test`
/// measures nothing.
pub(crate) fn main<F: Future<Output = ()>>(measure: impl FnOnce(Vec<String>) -> F) {
    let arguments: Vec<String> = std::env::args().collect();
    // The empty server has the runtime that `tokio::main` starts.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.iter().position(|argument| argument == ARGUMENT) {
        Some(at) => runtime.block_on(serve(&arguments[at + 1..])),
        None if arguments.iter().any(|argument| argument == "--test") => {}
        None => {
            let named = arguments.into_iter().skip(1);
            let parts = named.filter(|argument| !argument.starts_with('-'));
            runtime.block_on(measure(parts.collect()));
        }
    }
}

/// Serves until the process is killed.
async fn serve(arguments: &[String]) {
    let answer = hex::decode(&arguments[0]).unwrap();
    let answer = v1::VerifyResponse::decode(&answer[..]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let mut server = Server::builder();
    if let [_, certificate, key] = arguments {
        let identity = Pem::from_pem(certificate, key);
        let tls = ServerTlsConfig::new().identity(identity);
        server = server.tls_config(tls).unwrap();
    }
    server
        .add_service(ApiKeyServiceServer::new(Empty(answer)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .unwrap();
}
