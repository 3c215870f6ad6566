//! Compares calls of Keyward with an empty call of a default tonic server that carries the same bytes.
//!
//! The servers run in their own processes on one core, `h2load` on another, and they take turns. The
//! result is the server's CPU time for a call, which other load on the machine affects little.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints results, and stops at the first error"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_testkit::Process;
use keyward_testkit::machine::{cpu_time, pin};
use prost::Message;
use tonic::{Request, Response, Status};

const ROUNDS: usize = 5;
/// The calls of one round, and those before it.
const CALLS: u32 = 300_000;
const WARM_UP: u32 = 30_000;
/// The keys of a batch.
const BATCH: u32 = 64;

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

/// The process of the empty server: serves `answer` until it is killed.
async fn serve_empty(answer: v1::VerifyResponse) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_service(ApiKeyServiceServer::new(Empty(answer)))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

struct EmptyServer(Child, SocketAddr);

impl EmptyServer {
    fn start(answer: &v1::VerifyResponse) -> Self {
        // A runtime that starts on one core has one thread.
        let mut child = Command::new("taskset")
            .args(["-c", "0"])
            .arg(std::env::current_exe().unwrap())
            .args(["--empty", &hex::encode(answer.encode_to_vec())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self(child, line.trim().parse().unwrap())
    }
}

impl Drop for EmptyServer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// One kind of call, and what each round measured of it.
struct Row {
    name: &'static str,
    server: (SocketAddr, u32),
    method: &'static str,
    body: tempfile::NamedTempFile,
    /// The verified keys of one call.
    keys: u32,
    /// The microseconds of CPU for each key, and the keys in a second.
    rounds: Vec<(f64, f64)>,
}

impl Row {
    fn new(
        name: &'static str,
        server: (SocketAddr, u32),
        method: &'static str,
        keys: u32,
        message: &impl Message,
    ) -> Self {
        let message = message.encode_to_vec();
        let mut body = tempfile::NamedTempFile::new().unwrap();
        let length = u32::try_from(message.len()).unwrap();
        body.write_all(&[&[0], &length.to_be_bytes()[..], &message].concat())
            .unwrap();
        Self {
            name,
            server,
            method,
            body,
            keys,
            rounds: Vec::new(),
        }
    }

    fn measure(&mut self, token: &str) {
        self.load(token, WARM_UP / self.keys);
        let calls = CALLS / self.keys;
        let before = cpu_time(self.server.1);
        let rate = self.load(token, calls);
        let used = (cpu_time(self.server.1) - before).as_secs_f64() * 1e6;
        let keys = f64::from(self.keys);
        self.rounds
            .push((used / (f64::from(calls) * keys), rate * keys));
    }

    /// Makes `calls` calls. Returns the calls in a second.
    fn load(&self, token: &str, calls: u32) -> f64 {
        let output = Command::new("taskset")
            .args(["-c", "1", "h2load", "-t1", "-c8", "-m32"])
            .args([&format!("-n{calls}"), "-d"])
            .arg(self.body.path())
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("authorization: Bearer {token}")])
            .arg(format!(
                "http://{}/keyward.v1.ApiKeyService/{}",
                self.server.0, self.method
            ))
            .output()
            .expect("h2load runs; it is in Debian's package nghttp2-client");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!(" {calls} succeeded")), "{text}");
        let before = text.split(" req/s").next().unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn median(&self, figure: impl Fn(&(f64, f64)) -> f64) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }
}

async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = Process::command(env!("CARGO_BIN_EXE_keyward"), &data);
    command.args(["--workers", "1"]);
    let keyward = Process::start(command, &data);
    let token = keyward.token();
    let client = keyward.client().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let hit = v1::VerifyRequest {
        api_key: key.clone(),
        ..Default::default()
    };
    let answer = client.keys.clone().verify(hit.clone()).await;
    let empty = EmptyServer::start(&answer.unwrap().into_inner());
    pin(keyward.id(), 0);

    let malformed = v1::VerifyRequest {
        api_key: key.replace('_', "-"),
        ..Default::default()
    };
    let batch = v1::VerifyBatchRequest {
        requests: vec![hit.clone(); BATCH as usize],
    };
    let (empty, keyward) = ((empty.1, empty.0.id(), empty), (keyward.grpc, keyward.id()));
    let mut rows = [
        Row::new("empty call", (empty.0, empty.1), "Verify", 1, &hit),
        Row::new("Verify hit", keyward, "Verify", 1, &hit),
        Row::new("malformed key", keyward, "Verify", 1, &malformed),
        Row::new("batch, per key", keyward, "VerifyBatch", BATCH, &batch),
    ];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            row.measure(&token);
        }
    }
    let first = rows[0].median(|round| round.0);
    for row in &rows {
        let cpu = row.median(|round| round.0);
        println!(
            "{:<15} {:>9.0} /s {cpu:>7.2} us of CPU {:>6.2} x the empty call",
            row.name,
            row.median(|round| round.1),
            cpu / first
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // The empty server has the runtime that `tokio::main` starts.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.iter().position(|argument| argument == "--empty") {
        Some(at) => {
            let bytes = hex::decode(&arguments[at + 1]).unwrap();
            let answer = v1::VerifyResponse::decode(&bytes[..]).unwrap();
            runtime.block_on(serve_empty(answer));
        }
        None if arguments.iter().any(|argument| argument == "--test") => {}
        None => runtime.block_on(measure()),
    }
}
