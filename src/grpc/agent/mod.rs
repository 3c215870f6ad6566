//! The calls of an agent: those that ask for verdicts are answered from its near-cache, health checks by what
//! it reports, the others are passed on to Keyward with their caller's own token. They pass the same gate and
//! have the same limits as calls of the service.

mod callers;
mod passed;
mod verdicts;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use keyward_client::near::NearCache;
use keyward_client::{Client, Error};
use keyward_core::key::Clock;
use keyward_guard::{LogLimit, TrustedProxies, Verdict};
use keyward_ops::PortMetrics;
use prost::Message as _;
use tonic::body::Body;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use super::envoy::Envoy;
use super::gate::{Doorkeeper, Kind};
use super::handler::{BoxedCall, Handler, Stacked, stacked};
use super::immediate::{Answer, Methods, Question, begin, framed};
use super::observe::Observer;
use super::peer::Peer;
use super::{Front, MAX_OPEN_REQUEST, Server, encoding};
use keyward_proto::v1::VerifyResponse;

pub use callers::LocalCallers;
use callers::Sender;

/// What an agent asks, and who asks it.
pub struct Agent {
    near: NearCache,
    client: Client,
    callers: Arc<LocalCallers>,
    envoy: Envoy,
    health: HealthServer<HealthService>,
    faults: LogLimit,
}

impl Agent {
    /// Answers `callers` from `near`, and passes on by `client`. Addresses of clients are taken from behind
    /// `proxies`. Health checks get what `health` reports.
    pub fn new(
        near: NearCache,
        client: Client,
        callers: Arc<LocalCallers>,
        proxies: TrustedProxies,
        health: HealthReporter,
    ) -> Self {
        let health = HealthService::from_health_reporter(health);
        Self {
            near,
            client,
            callers,
            envoy: Envoy::new(proxies),
            health: HealthServer::new(health).max_decoding_message_size(MAX_OPEN_REQUEST),
            faults: LogLimit::default(),
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let sender = request.extensions().get::<Sender>().copied();
        let is_health = matches!(
            Kind::of(request.uri().path()),
            Kind::Open {
                is_reflection: false
            }
        );
        let answered = match sender {
            Some(Sender::Local) => {
                let verdicts = service_fn(|request| self.verdicts(request));
                encoding::layer().layer(verdicts).oneshot(request).await
            }
            None if is_health => self.health.clone().oneshot(request).await,
            Some(Sender::Other) | None => {
                let passed = self.pass_on(request, sender).await;
                Ok(passed.unwrap_or_else(tonic::Status::into_http))
            }
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Logs a failed call if an operator must act, but not each of many.
    fn note(&self, error: &Error) {
        if error.kind == keyward_client::ErrorKind::Unauthorized && self.faults.is_due() {
            tracing::error!(%error, "Keyward refuses the agent's own token");
        } else {
            tracing::debug!(%error, "Keyward gave the agent no verdict");
        }
    }
}

/// Builds the server of an agent.
pub fn agent_server(
    agent: Agent,
    metrics: &PortMetrics,
    clock: Arc<dyn Clock>,
    front: &Front<'_>,
) -> Server {
    let agent = Arc::new(agent);
    let callers = Doorkeeper::Agent(Arc::clone(&agent.callers));
    let observer = Arc::new(Observer::new(metrics, Arc::clone(&clock)));
    let methods = Methods::new(&observer, clock);
    let stack = stacked(Calls(Arc::clone(&agent)), observer, callers, front);
    let handler = AgentHandler {
        agent,
        methods,
        stack,
    };
    Server::new(Arc::new(handler), metrics, front)
}

/// The calls that have passed the gate.
#[derive(Clone)]
struct Calls(Arc<Agent>);

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = Arc::clone(&self.0).answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

struct AgentHandler {
    agent: Arc<Agent>,
    methods: Methods,
    stack: Stacked<Calls>,
}

impl Handler for AgentHandler {
    /// Answers for a key that the near-cache knows.
    fn at_once(&self, call: &Parts, body: &[u8], peer: &Arc<Peer>) -> Option<Answer> {
        let now = self.methods.now();
        let (message, _) = begin(call, body)?;
        let (agent, path) = (&*self.agent, call.uri.path());
        let sender = agent.callers.judge(&call.headers, path, peer).ok()?;
        if sender != Sender::Local {
            return None;
        }
        let question = Question::read(path, message, &agent.envoy)?;
        let known = agent.near.cached(&verdicts::asking(question.verify()))?;
        let verdict = Verdict::Valid(known);
        let encode = |question| {
            Ok(match question {
                Question::Check(asked) => {
                    framed(&agent.envoy.answer(*asked, Some(verdict))?.encode_to_vec())
                }
                Question::Verify(_) => framed(&VerifyResponse::from(&verdict).encode_to_vec()),
            })
        };
        let response = self.methods.respond(question, encode, peer, now);
        Some(Answer::Now(response))
    }

    fn through_layers(&self, call: Request<Body>) -> BoxedCall {
        self.stack.clone().call(call)
    }
}
