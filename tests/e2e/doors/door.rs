//! The doors of an instance: the ways to ask for a verdict.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use keyward_proto::envoy::check_response::HttpResponse;
use keyward_proto::v1::Verdict;
use keyward_testkit::requests::{by_id, checking, verifying};
use keyward_testkit::{Client, HttpAnswer, Key, Web};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// A way to ask for a verdict.
#[derive(Clone, Copy, Debug)]
pub(super) enum Door {
    /// `Verify` through gRPC.
    Grpc,
    /// `POST /v1/keys:verify`.
    Json,
    /// `/auth`.
    Auth,
    /// Envoy's `Check`.
    Envoy,
}

pub(super) const DOORS: [Door; 4] = [Door::Grpc, Door::Json, Door::Auth, Door::Envoy];

/// An instance, with a connection to each of its doors, and one for revocations, which take long.
pub(super) struct Instance {
    pub(super) number: usize,
    pub(super) grpc: Client,
    json: Webs,
    auth: Webs,
    revoking: Web,
    token: String,
    /// Whether the instance may be killed during a call.
    may_die: bool,
}

/// Connections in turn: one answer at a time comes over each.
struct Webs {
    connections: [Web; 4],
    turn: AtomicUsize,
}

impl Webs {
    fn new(address: SocketAddr) -> Self {
        Self {
            connections: [(); 4].map(|()| Web::new(address)),
            turn: AtomicUsize::new(0),
        }
    }

    fn next(&self) -> &Web {
        let turn = self.turn.fetch_add(1, Relaxed);
        &self.connections[turn % self.connections.len()]
    }
}

impl Instance {
    pub(super) async fn new(
        number: usize,
        (grpc, rest): (SocketAddr, SocketAddr),
        token: &str,
        may_die: bool,
    ) -> Self {
        Self {
            number,
            grpc: Client::new(grpc, Some(token)).await,
            json: Webs::new(rest),
            auth: Webs::new(rest),
            revoking: Web::new(rest),
            token: token.to_owned(),
            may_die,
        }
    }

    /// The verdict on a key, or `None` if the instance has none now.
    ///
    /// # Panics
    ///
    /// This door may not give such an answer.
    pub(super) async fn ask(&self, door: Door, key: &Key) -> Option<Verdict> {
        match door {
            Door::Grpc => {
                let answer = self.grpc.send(verifying(&key.text)).await;
                self.answered(answer).map(|answer| answer.verdict())
            }
            Door::Json => {
                let body = json!({"apiKey": key.text}).to_string();
                let answer = self
                    .post(self.json.next(), "/v1/keys:verify", &body)
                    .await?;
                Verdict::from_str_name(answer["verdict"].as_str()?)
            }
            Door::Auth => {
                let headers = [("x-keyward-token", &*self.token), ("apikey", &key.text)];
                let answer = self.auth.next().ask("GET", "/auth", &headers, "").await;
                let answer = self.reached(answer)?;
                match answer.status {
                    200 => assert_eq!(answer.header("x-keyward-key-id"), Some(&*key.id)),
                    401 => return Some(refused(&answer.body)),
                    status => assert_eq!(status, 503, "{answer:?}"),
                }
                (answer.status == 200).then_some(Verdict::Valid)
            }
            Door::Envoy => {
                let answer = self.grpc.send(checking(&key.text)).await;
                let answer = self.answered(answer)?;
                match answer.http_response.expect("Check answers for HTTP") {
                    HttpResponse::OkResponse(_) => Some(Verdict::Valid),
                    HttpResponse::DeniedResponse(denied) => {
                        assert_eq!(denied.status.map(|status| status.code), Some(401));
                        Some(refused(&denied.body))
                    }
                }
            }
        }
    }

    /// Revokes a key through gRPC or JSON. Returns whether that is confirmed.
    pub(super) async fn revoke(&self, key: &Key, through_json: bool) -> bool {
        if through_json {
            let body = json!({"keyId": key.id}).to_string();
            let answer = self.post(&self.revoking, "/v1/keys:revoke", &body);
            return answer.await.is_some();
        }
        let answer = self.grpc.send(by_id(&key.id)).await;
        self.answered(answer).is_some()
    }

    /// Posts to a route. `None` is 503.
    async fn post(&self, web: &Web, path: &str, body: &str) -> Option<Value> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("authorization", &*bearer),
            ("content-type", "application/json"),
        ];
        let answer = web.ask("POST", path, &headers, body).await;
        let answer = self.reached(answer)?;
        if answer.status == 503 {
            return None;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        Some(serde_json::from_str(&answer.body).expect("an answer is JSON"))
    }

    /// `None` if the connection broke.
    fn reached(&self, answer: io::Result<HttpAnswer>) -> Option<HttpAnswer> {
        match answer {
            Ok(answer) => Some(answer),
            Err(_) if self.may_die => None,
            Err(error) => panic!("instance {}: {error}", self.number),
        }
    }

    /// `None` if the instance is UNAVAILABLE, or the connection broke.
    fn answered<T>(&self, answer: Result<T, Status>) -> Option<T> {
        let is_broken = |status: &Status| status.source().is_some();
        match answer {
            Ok(answer) => Some(answer),
            Err(status) if is_broken(&status) && self.may_die => None,
            Err(status) if !is_broken(&status) && status.code() == Code::Unavailable => None,
            Err(status) => panic!("instance {}: {status:?}", self.number),
        }
    }
}

/// The verdict behind the body of a 401.
pub(super) fn refused(body: &str) -> Verdict {
    let problem: Value = serde_json::from_str(body).expect("a refusal is JSON");
    match problem["code"].as_str().or(problem["message"].as_str()) {
        Some("API_KEY_REVOKED") => Verdict::Revoked,
        Some("INVALID_API_KEY") => Verdict::NotFound,
        other => panic!("{other:?} is no verdict on this key"),
    }
}
