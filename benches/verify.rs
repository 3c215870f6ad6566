//! Compares a Verify hit with an empty tonic call that carries the same bytes.
//!
//! Both servers run in their own processes with one serving thread, and take turns. The result is the
//! server's CPU time for a call, which other load on the machine affects little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark uses the real clock, prints results, and stops at the first error"
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

/// The process of the empty server: serves `answer` on one thread until it is killed.
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

/// The CPU time of a process, user and system.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux reports ticks of 10 ms on all architectures that we use.
    Duration::from_millis(ticks * 10)
}

/// The results of one round.
struct Figures {
    per_second: f64,
    cpu_micros: f64,
}

/// Keeps `CONNECTIONS` × `IN_FLIGHT` calls in flight for one round.
async fn load(address: SocketAddr, token: &str, key: &str, process: u32) -> Figures {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::new(address, Some(token)).await);
    }
    let (before, start) = (cpu(process), Instant::now());
    let mut tasks = JoinSet::new();
    for client in clients {
        for _ in 0..IN_FLIGHT {
            let (client, key) = (client.clone(), key.to_owned());
            tasks.spawn(async move {
                let mut calls = 0_u64;
                while start.elapsed() < ROUND {
                    assert_eq!(client.verify(&key).await.unwrap(), v1::Verdict::Valid);
                    calls += 1;
                }
                calls
            });
        }
    }
    let calls: u64 = tasks.join_all().await.into_iter().sum();
    let (elapsed, used) = (start.elapsed(), cpu(process) - before);
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
        println!("{name:<12} {rate:>9.0} calls/s {cpu:>7.2} us CPU per call");
        (cpu, rate)
    };
    let (empty_cpu, empty_rate) = show("empty call", &plain);
    let (verify_cpu, verify_rate) = show("Verify hit", &verify);
    println!(
        "ratio        {:>9.2} of the calls {:>5.2} of the CPU",
        verify_rate / empty_rate,
        verify_cpu / empty_cpu
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
