//! The empty call: a default tonic server in its own process, which answers every Verify with the same
//! bytes.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use prost::Message as _;
use tonic::{Request, Response, Status};

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

/// The process of the empty server. It is killed when this is dropped.
pub(crate) struct EmptyServer {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl EmptyServer {
    /// Starts this program again, which must call [`serve_if_asked`] first. The server has one thread.
    pub(crate) fn start(answer: &v1::VerifyResponse) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--empty", &hex::encode(answer.encode_to_vec())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            process,
            address: line.trim().parse().unwrap(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// In the process of the empty server: serves until it is killed. Otherwise it returns.
pub(crate) fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(at) = arguments.iter().position(|argument| argument == "--empty") else {
        return;
    };
    let answer = hex::decode(&arguments[at + 1]).unwrap();
    let answer = v1::VerifyResponse::decode(&answer[..]).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let incoming =
            tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        tonic::transport::Server::builder()
            .add_service(ApiKeyServiceServer::new(Empty(answer)))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
}
