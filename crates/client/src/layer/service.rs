//! The layer and the service that it makes. A request passes at one place only, with a valid
//! verdict in hand.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{Either, Full};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::server::NamedService;
use tower_layer::Layer;
use tower_service::Service;

use super::{ClientIp, Problem, Refusal, RefusalBody, credential};
use crate::{Client, Consistency, ErrorKind, Identity, VerifyRequest};

/// How often a fault of the deployment is said.
const TELLING: Duration = Duration::from_secs(1);

/// The body of an answer: the guarded service's own, or that of a refusal.
pub type ResponseBody<B> = Either<B, Full<Bytes>>;

/// What [`Guarded`] answers with, later.
pub type ResponseFuture<B, E> =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

/// Lets requests through only with a valid API key: see [the module](super).
#[derive(Clone)]
#[must_use]
pub struct RequireApiKey(Arc<Guard>);

#[derive(Clone)]
struct Guard {
    client: Client,
    scopes: Vec<String>,
    client_ip: ClientIp,
    consistency: Consistency,
    realm: String,
    body: Arc<dyn RefusalBody>,
    speaks_grpc: bool,
    told: Arc<Mutex<Option<Instant>>>,
}

impl RequireApiKey {
    /// Asks `client` about each key, whose token takes the role `verifier`. No scope is required.
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Guard {
            client,
            scopes: Vec::new(),
            client_ip: ClientIp::Peer,
            consistency: Consistency::Default,
            realm: "api".to_owned(),
            body: Arc::new(Problem),
            speaks_grpc: false,
            told: Arc::default(),
        }))
    }

    /// The scopes that a key must all hold, besides those of an earlier call.
    pub fn scopes<S: Into<String>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes = scopes.into_iter().map(Into::into);
        self.with(|guard| guard.scopes.extend(scopes))
    }

    /// How the address of the end user is found; [`ClientIp::Peer`] unless set.
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.with(|guard| guard.client_ip = client_ip)
    }

    /// How Keyward finds its answer; a revocation that has returned is seen either way.
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.with(|guard| guard.consistency = consistency)
    }

    /// The realm that `WWW-Authenticate` names; `api` unless set.
    pub fn realm(self, realm: impl Into<String>) -> Self {
        let realm = realm.into();
        self.with(|guard| guard.realm = realm)
    }

    /// Refuses as gRPC does: with the status 200 and the refusal in `grpc-status`. For tonic alone:
    /// whoever looks at the HTTP status would take a refusal for a success.
    pub fn grpc(self) -> Self {
        self.with(|guard| guard.speaks_grpc = true)
    }

    /// What a refusal looks like; [`Problem`] unless set. gRPC has a form of its own.
    pub fn body(self, body: impl RefusalBody) -> Self {
        self.with(|guard| guard.body = Arc::new(body))
    }

    fn with(mut self, change: impl FnOnce(&mut Guard)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Debug for RequireApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = &self.0;
        f.debug_struct("RequireApiKey")
            .field("client", &guard.client)
            .field("scopes", &guard.scopes)
            .field("client_ip", &guard.client_ip)
            .field("consistency", &guard.consistency)
            .field("realm", &guard.realm)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RequireApiKey {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: Arc::clone(&self.0),
        }
    }
}

/// A service behind [`RequireApiKey`].
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S: fmt::Debug> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guarded").field(&self.inner).finish()
    }
}

/// So that one service of a tonic server can be guarded, and the others (health, say) left open.
impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<R, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes with the request, and a clone of it stays.
        let stays = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, stays);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match guard.judge(&mut parts).await {
                Ok(identity) => {
                    parts.extensions.insert(identity);
                    let answer = inner.call(Request::from_parts(parts, body)).await?;
                    Ok(answer.map(Either::Left))
                }
                Err(refusal) => Ok(guard.refuse(&refusal).map(Either::Right)),
            }
        })
    }
}

impl Guard {
    /// Takes the key off the request and asks about it.
    async fn judge(&self, parts: &mut Parts) -> Result<Identity, Refusal> {
        let api_key = credential::take(&mut parts.headers)?;
        let request = VerifyRequest {
            api_key,
            required_scopes: self.scopes.clone(),
            client_ip: self.client_ip.find(parts),
            consistency: self.consistency,
        };
        match self.client.verify(request).await {
            Ok(verdict) => Refusal::of(verdict),
            Err(error) => {
                if error.kind != ErrorKind::Unavailable && self.is_to_be_told() {
                    tracing::error!(%error, "keys cannot be checked: the deployment is at fault");
                } else {
                    tracing::debug!(%error, "a key could not be checked");
                }
                Err(Refusal::from(&error))
            }
        }
    }

    /// Once a second: every request may meet the same fault.
    fn is_to_be_told(&self) -> bool {
        let (mut told, now) = (self.told.lock(), Instant::now());
        let is_due = told.is_none_or(|told| now.duration_since(told) >= TELLING);
        if is_due {
            *told = Some(now);
        }
        is_due
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Full<Bytes>> {
        tracing::debug!(why = refusal.code(), "a request is refused");
        if self.speaks_grpc {
            return refusal.grpc().into_http();
        }
        let rendered = self.body.render(refusal);
        let mut response = Response::new(Full::new(rendered.body));
        *response.status_mut() = rendered.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, rendered.content_type);
        refusal.add_headers(headers, &self.realm, &self.scopes);
        response
    }
}
