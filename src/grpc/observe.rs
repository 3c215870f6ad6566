//! One span, one count and one duration for each RPC, around all services.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Code;
use tower::{Layer, Service};
use tracing::Instrument;

use keyward_core::key::Clock;
use keyward_ops::{Metrics, RpcMetrics};

/// The methods that are counted by name; all others are counted as `other`, so that a client
/// cannot invent labels.
const METHODS: &[&str] = &[
    "/keyward.v1.ApiKeyService/Issue",
    "/keyward.v1.ApiKeyService/Revoke",
    "/keyward.v1.ApiKeyService/Verify",
    "/keyward.v1.ApiKeyService/VerifyBatch",
    "/keyward.v1.ApiKeyService/Get",
    "/keyward.v1.ApiKeyService/List",
    "/keyward.v1.ApiKeyService/Update",
    "/keyward.v1.AdminService/CreateToken",
    "/keyward.v1.AdminService/ListTokens",
    "/keyward.v1.AdminService/RevokeToken",
    "/grpc.health.v1.Health/Check",
];

struct Watched {
    methods: HashMap<&'static str, (&'static str, RpcMetrics)>,
    other: RpcMetrics,
    clock: Arc<dyn Clock>,
}

/// Puts [`Observe`] around a service.
#[derive(Clone)]
pub struct ObserveLayer(Arc<Watched>);

impl ObserveLayer {
    /// Counts in `metrics`, with durations by `clock`.
    pub fn new(metrics: &Metrics, clock: Arc<dyn Clock>) -> Self {
        let short = |path: &'static str| path.rsplit('/').next().unwrap_or(path);
        let methods = METHODS
            .iter()
            .map(|path| (*path, (short(path), metrics.rpc(short(path)))))
            .collect();
        Self(Arc::new(Watched {
            methods,
            other: metrics.rpc("other"),
            clock,
        }))
    }
}

impl std::fmt::Debug for ObserveLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ObserveLayer")
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            watched: Arc::clone(&self.0),
        }
    }
}

/// Watches every call of `inner`.
#[derive(Clone)]
pub struct Observe<S> {
    inner: S,
    watched: Arc<Watched>,
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let begun = self.watched.clock.boot();
        let known = self.watched.methods.get(request.uri().path());
        let (method, metrics) = known.map_or_else(
            || ("other", self.watched.other.clone()),
            |(method, metrics)| (*method, metrics.clone()),
        );
        let span = tracing::debug_span!("rpc", method, code = tracing::field::Empty);
        let work = self.inner.call(request).instrument(span.clone());
        let clock = Arc::clone(&self.watched.clock);
        Box::pin(async move {
            let response = work.await?;
            let code = code_of(&response);
            span.record("code", tracing::field::debug(code));
            metrics.observe(code, clock.boot().since(begun));
            Ok(response)
        })
    }
}

/// An RPC that fails says so in its headers; one that goes well only in its trailers.
fn code_of<R>(response: &Response<R>) -> Code {
    response
        .headers()
        .get("grpc-status")
        .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}
