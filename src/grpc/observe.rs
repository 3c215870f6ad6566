//! Records one span, one count and one duration for each RPC of all services.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Code;
use tower::Service;
use tracing::{Instrument as _, Span};

use keyward_core::key::{BootTime, Clock};
use keyward_ops::traces::{end_rpc, rpc_span};
use keyward_ops::{PortMetrics, RpcMetrics};

/// The methods that have their own metric labels. All others count as `other`, so that a client
/// cannot create labels.
pub(super) const METHODS: &[&str] = &[
    CHECK,
    "/keyward.v1.ApiKeyService/Issue",
    "/keyward.v1.ApiKeyService/Revoke",
    "/keyward.v1.ApiKeyService/Verify",
    "/keyward.v1.ApiKeyService/VerifyBatch",
    "/keyward.v1.ApiKeyService/Get",
    "/keyward.v1.ApiKeyService/List",
    "/keyward.v1.ApiKeyService/Update",
    WATCH,
    "/keyward.v1.AdminService/CreateToken",
    "/keyward.v1.AdminService/ListTokens",
    "/keyward.v1.AdminService/RevokeToken",
    "/keyward.v1.AdminService/ImportKeys",
    "/keyward.v1.AdminService/UndoImport",
    "/keyward.v1.AdminService/ExportKeys",
    "/keyward.v1.AdminService/GetKeyringStatus",
    "/keyward.v1.AdminService/ActivateKeyringKey",
    "/keyward.v1.AdminService/RetireKeyringKey",
    "/keyward.v1.AdminService/EraseAccount",
    "/keyward.v1.AdminService/ListAuditEvents",
    "/keyward.v1.AdminService/VerifyAudit",
    "/keyward.v1.AdminService/ListWebhooks",
    "/keyward.v1.AdminService/TestWebhook",
    "/keyward.v1.AdminService/ReplayWebhook",
    "/grpc.health.v1.Health/Check",
];

/// The path of a near-cache's stream.
pub(super) const WATCH: &str = "/keyward.v1.ApiKeyService/WatchInvalidations";

/// The path of Envoy's question, whose last part is that of a health check.
pub(super) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The short name of a method in metrics.
fn name(path: &'static str) -> &'static str {
    match path {
        CHECK => "Authorization",
        _ => path.rsplit('/').next().unwrap_or(path),
    }
}

/// Observes calls.
pub(super) struct Observer {
    methods: HashMap<&'static str, RpcMetrics>,
    other: RpcMetrics,
    clock: Arc<dyn Clock>,
}

/// A call that is traced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traced;

impl Observer {
    /// Counts in `metrics` and measures durations with `clock`.
    pub(super) fn new(metrics: &PortMetrics, clock: Arc<dyn Clock>) -> Self {
        let methods = METHODS
            .iter()
            .map(|path| (*path, metrics.rpc(name(path), path.trim_start_matches('/'))))
            .collect();
        Self {
            methods,
            // The name of OpenTelemetry's conventions for methods that the server does not know.
            other: metrics.rpc("other", "_OTHER"),
            clock,
        }
    }

    /// The metrics of the method at `path`.
    pub(super) fn method(&self, path: &str) -> &RpcMetrics {
        self.methods.get(path).unwrap_or(&self.other)
    }
}

/// Observes every call of `inner`.
#[derive(Clone)]
pub(super) struct Observe<S> {
    pub(super) inner: S,
    pub(super) observer: Arc<Observer>,
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
        let observer = Arc::clone(&self.observer);
        let start = observer.clock.boot();
        let path = request.uri().path();
        let metrics = observer.method(path).clone();
        let is_traced = request.extensions().get::<Traced>().is_some();
        let span = rpc_span(metrics.method(), is_traced.then(|| request.headers()));
        let work = self.inner.call(request).instrument(span.clone());
        let clock = Arc::clone(&observer.clock);
        let unanswered = Unanswered::new(clock, start, metrics, span);
        Box::pin(async move {
            let response = work.await?;
            unanswered.end(code_of(&response));
            Ok(response)
        })
    }
}

/// A call that is not answered yet. If its client gives it up, it counts as cancelled.
pub(super) struct Unanswered(Option<Observed>);

struct Observed {
    clock: Arc<dyn Clock>,
    start: BootTime,
    metrics: RpcMetrics,
    span: Span,
}

impl Unanswered {
    /// A call that arrived at `start`.
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        start: BootTime,
        metrics: RpcMetrics,
        span: Span,
    ) -> Self {
        Self(Some(Observed {
            clock,
            start,
            metrics,
            span,
        }))
    }

    /// The call ends with `code`.
    pub(super) fn end(mut self, code: Code) {
        self.count(code);
    }

    /// The call ends, and is counted elsewhere.
    pub(super) fn counted(mut self) {
        self.0 = None;
    }

    fn count(&mut self, code: Code) {
        if let Some(call) = self.0.take() {
            end_rpc(&call.span, code);
            let elapsed = call.clock.boot().since(call.start);
            call.metrics.observe(code, elapsed);
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.count(Code::Cancelled);
    }
}

/// The status code of a response. A failed RPC has `grpc-status` in its headers; a successful one
/// has it in its trailers.
pub(super) fn code_of<R>(response: &Response<R>) -> Code {
    response
        .headers()
        .get("grpc-status")
        .map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}
