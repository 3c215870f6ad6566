//! What a Verify hit costs beside an empty tonic call that carries the same bytes, in one run.
//!
//! Both servers are processes of their own with one serving thread, and take turns; the figure is
//! the CPU time that the server spends on a call, so a noisy machine disturbs it little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures by the real clock, prints figures, and stops at the first fault"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use keyward_testkit::{Client, Process};
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;

/// Answers every Verify with the same bytes, and does nothing else.
struct Empty(v1::VerifyResponse);

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("only Verify is measured"))
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
        not_here()
    }

    async fn revoke(
        &self,
        _: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        not_here()
    }

    async fn verify_batch(
        &self,
        _: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        not_here()
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        not_here()
    }

    async fn list(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        not_here()
    }

    async fn update(
        &self,
        _: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        not_here()
    }
}

/// The other process: serves `answer` on one thread until it is killed.
async fn serve_empty(answer: v1::VerifyResponse) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tonic::transport::Server::builder()
        .add_service(ApiKeyServiceServer::new(Empty(answer)))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

struct EmptyServer(Child, SocketAddr);

impl EmptyServer {
    fn start(answer: &v1::VerifyResponse) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
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

/// CPU time that a process has used, user and system.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux reports in ticks of 10 ms to user space, on every architecture we run on.
    Duration::from_millis(ticks * 10)
}

/// What one round showed.
struct Figures {
    per_second: f64,
    cpu_micros: f64,
}

/// Keeps `CONNECTIONS` × `IN_FLIGHT` calls going for one round.
async fn load(address: SocketAddr, token: &str, key: &str, process: u32) -> Figures {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::new(address, Some(token)).await);
    }
    let (before, begun) = (cpu(process), Instant::now());
    let mut tasks = JoinSet::new();
    for client in clients {
        for _ in 0..IN_FLIGHT {
            let (client, key) = (client.clone(), key.to_owned());
            tasks.spawn(async move {
                let mut calls = 0_u64;
                while begun.elapsed() < ROUND {
                    assert_eq!(client.verify(&key).await.unwrap(), v1::Verdict::Valid);
                    calls += 1;
                }
                calls
            });
        }
    }
    let calls: u64 = tasks.join_all().await.into_iter().sum();
    let (elapsed, used) = (begun.elapsed(), cpu(process) - before);
    Figures {
        per_second: calls as f64 / elapsed.as_secs_f64(),
        cpu_micros: used.as_secs_f64() * 1e6 / calls as f64,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
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
    let request = v1::VerifyRequest {
        api_key: key.clone(),
        ..Default::default()
    };
    let answer = client
        .keys
        .clone()
        .verify(request)
        .await
        .unwrap()
        .into_inner();
    let empty = EmptyServer::start(&answer);

    let (mut plain, mut verify) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(load(empty.1, &token, &key, empty.0.id()).await);
        verify.push(load(keyward.grpc, &token, &key, keyward.id()).await);
    }
    let show = |name: &str, rounds: &[Figures]| {
        let cpu = median(rounds.iter().map(|figures| figures.cpu_micros).collect());
        let rate = median(rounds.iter().map(|figures| figures.per_second).collect());
        println!("{name:<12} {rate:>9.0} calls/s {cpu:>7.2} us CPU a call");
        (cpu, rate)
    };
    let (one, base) = show("empty call", &plain);
    let (other, rate) = show("Verify hit", &verify);
    println!(
        "ratio        {:>9.2} of the calls {:>5.2} of the CPU",
        rate / base,
        other / one
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--empty") {
        Some(at) => {
            let bytes = hex::decode(&arguments[at + 1]).unwrap();
            let answer = v1::VerifyResponse::decode(&bytes[..]).unwrap();
            runtime.block_on(serve_empty(answer));
        }
        None => runtime.block_on(measure()),
    }
}
