//! The servers that everything is compared with: a default tonic server whose Verify and Check do nothing,
//! and a default axum server whose handlers do nothing. They share a process; one works at a time.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use axum::Json;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use keyward_proto::envoy::authorization_server::{Authorization, AuthorizationServer};
use keyward_proto::envoy::{CheckRequest, CheckResponse};
use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_testkit::Identity;
use prost::Message as _;
use serde::Deserialize;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity as Pem, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::doors;

/// The argument that makes a benchmark's process the server.
const ARGUMENT: &str = "--empty";

/// What the servers answer.
#[derive(Clone, Default)]
pub(crate) struct Answers {
    pub(crate) verify: v1::VerifyResponse,
    pub(crate) check: CheckResponse,
    /// Of the route of Verify.
    pub(crate) json: String,
}

/// Answers every call with the same response.
struct Empty(Answers);

/// What axum's handler of Verify reads.
#[derive(Deserialize)]
struct Asked {
    #[serde(rename = "apiKey")]
    api_key: String,
}

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
        Ok(Response::new(self.0.verify.clone()))
    }

    type WatchInvalidationsStream =
        tokio_stream::Empty<Result<v1::WatchInvalidationsResponse, Status>>;

    async fn watch_invalidations(
        &self,
        _: Request<Streaming<v1::WatchInvalidationsRequest>>,
    ) -> Result<Response<Self::WatchInvalidationsStream>, Status> {
        unimplemented()
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

#[tonic::async_trait]
impl Authorization for Empty {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        drop(request);
        Ok(Response::new(self.0.check.clone()))
    }
}

/// The empty servers in a process of their own, on core 0. Killed when dropped.
pub(crate) struct EmptyServer {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) axum: SocketAddr,
}

impl EmptyServer {
    /// Starts the servers, that of gRPC with TLS if it has an identity.
    pub(crate) fn start(answers: &Answers, tls: Option<&Identity>) -> Self {
        let verify = hex::encode(answers.verify.encode_to_vec());
        let check = hex::encode(answers.check.encode_to_vec());
        // A runtime that starts on one core has one thread.
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().unwrap())
            .args([ARGUMENT, &verify, &check, &answers.json])
            .args(tls.iter().flat_map(|tls| [&tls.certificate, &tls.key]))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let (grpc, axum) = line.trim().split_once(' ').unwrap();
        let (grpc, axum) = (grpc.parse().unwrap(), axum.parse().unwrap());
        Self { child, grpc, axum }
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
    let [verify, check, json, tls @ ..] = arguments else {
        panic!("arguments: {arguments:?}");
    };
    let [verify, check] = [verify, check].map(|answer| hex::decode(answer).unwrap());
    let answers = Answers {
        verify: v1::VerifyResponse::decode(&verify[..]).unwrap(),
        check: CheckResponse::decode(&check[..]).unwrap(),
        json: json.clone(),
    };
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let axum = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&grpc, &axum].map(|listener| listener.local_addr().unwrap());
    println!("{} {}", addresses[0], addresses[1]);
    tokio::spawn(serve_axum(axum, answers.json.clone().into()));
    let mut server = Server::builder();
    if let [certificate, key] = tls {
        let identity = Pem::from_pem(certificate, key);
        let tls = ServerTlsConfig::new().identity(identity);
        server = server.tls_config(tls).unwrap();
    }
    server
        .add_service(ApiKeyServiceServer::new(Empty(answers.clone())))
        .add_service(AuthorizationServer::new(Empty(answers)))
        .serve_with_incoming(TcpIncoming::from(grpc).with_nodelay(Some(true)))
        .await
        .unwrap();
}

async fn serve_axum(listener: TcpListener, json: Bytes) {
    let verify = async move |Json(asked): Json<Asked>| {
        drop(asked.api_key);
        ([(CONTENT_TYPE, "application/json")], json.clone())
    };
    let router = axum::Router::new()
        .route(doors::VERIFY, post(verify))
        .route(doors::AUTH, get(async || ()));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, router).await.unwrap();
}
