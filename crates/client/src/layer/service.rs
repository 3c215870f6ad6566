//! The layer and its service. A request reaches the inner service at one line only: with a valid
//! verdict, or as a preflight request if the service allows those.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, ORIGIN};
use http::request::Parts;
use http::{HeaderName, Method, Request, Response};
use http_body_util::{Either, Full};
use keyward_guard::LogLimit;
use keyward_guard::credential::{self, DEFAULT_HEADERS};
use tonic::server::NamedService;
use tower_layer::Layer;
use tower_service::Service;

use super::{ClientIp, Problem, Refusal, RefusalBody};
#[cfg(feature = "near-cache")]
use crate::near::NearCache;
use crate::{Client, Consistency, Error, ErrorKind, Identity, Verdict, VerifyRequest};

/// The body of a response: from the guarded service, or of a refusal.
pub type ResponseBody<B> = Either<B, Full<Bytes>>;

/// The future of [`Guarded`].
pub type ResponseFuture<B, E> =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

/// Accepts a request only with a valid API key: see [the module](super).
#[derive(Clone)]
#[must_use]
pub struct RequireApiKey(Arc<Guard>);

/// What verifies the keys of a [`RequireApiKey`].
#[derive(Clone, Debug)]
pub struct Verifier(Means);

#[derive(Clone, Debug)]
enum Means {
    Calls(Client),
    #[cfg(feature = "near-cache")]
    NearCache(NearCache),
}

impl From<Client> for Verifier {
    fn from(client: Client) -> Self {
        Self(Means::Calls(client))
    }
}

#[cfg(feature = "near-cache")]
impl From<NearCache> for Verifier {
    fn from(near: NearCache) -> Self {
        Self(Means::NearCache(near))
    }
}

impl Verifier {
    async fn verify(&self, request: VerifyRequest) -> Result<Verdict, Error> {
        match &self.0 {
            Means::Calls(client) => client.verify(request).await,
            #[cfg(feature = "near-cache")]
            Means::NearCache(near) => near.verify(request).await,
        }
    }
}

#[derive(Clone)]
struct Guard {
    verifier: Verifier,
    headers: Vec<HeaderName>,
    allows_preflight: bool,
    scopes: Vec<String>,
    client_ip: ClientIp,
    consistency: Consistency,
    realm: String,
    body: Arc<dyn RefusalBody>,
    speaks_grpc: bool,
    faults: Arc<LogLimit>,
}

impl RequireApiKey {
    /// Verifies each key by a [`Client`], whose token needs the role `verifier`, or by a
    /// near-cache (feature `near-cache`). Requires no scope.
    pub fn new(verifier: impl Into<Verifier>) -> Self {
        Self(Arc::new(Guard {
            verifier: verifier.into(),
            headers: DEFAULT_HEADERS.to_vec(),
            allows_preflight: false,
            scopes: Vec::new(),
            client_ip: ClientIp::Peer,
            consistency: Consistency::Default,
            realm: "api".to_owned(),
            body: Arc::new(Problem),
            speaks_grpc: false,
            faults: Arc::default(),
        }))
    }

    /// Sets the headers that may hold a key, instead of `apikey`, `x-api-key` and `authorization`. Of
    /// `authorization` only the schemes `ApiKey` and `Bearer` count; another header is a key as a
    /// whole. Leave `authorization` out if it holds credentials of your own.
    pub fn headers(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        let headers = headers.into_iter().collect();
        self.with(|guard| guard.headers = headers)
    }

    /// Lets preflight requests of browsers through without a key and without an
    /// [`Identity`](crate::Identity): those of the method OPTIONS with the headers `origin` and
    /// `access-control-request-method`. For services that answer them behind this layer. With a CORS
    /// layer outside this one, you don't need it.
    pub fn allow_preflight(self) -> Self {
        self.with(|guard| guard.allows_preflight = true)
    }

    /// Adds scopes, all of which a key must have.
    pub fn scopes<S: Into<String>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes = scopes.into_iter().map(Into::into);
        self.with(|guard| guard.scopes.extend(scopes))
    }

    /// Sets how the address of the end user is found. [`ClientIp::Peer`] by default.
    pub fn client_ip(self, client_ip: ClientIp) -> Self {
        self.with(|guard| guard.client_ip = client_ip)
    }

    /// Sets how Keyward finds its answer. Each way respects every revocation that has returned.
    pub fn consistency(self, consistency: Consistency) -> Self {
        self.with(|guard| guard.consistency = consistency)
    }

    /// Sets the realm in `WWW-Authenticate`. `api` by default.
    pub fn realm(self, realm: impl Into<String>) -> Self {
        let realm = realm.into();
        self.with(|guard| guard.realm = realm)
    }

    /// Refuses as gRPC does: with the HTTP status 200 and the refusal in `grpc-status`. Only for tonic:
    /// an HTTP client would read a refusal as a success.
    pub fn grpc(self) -> Self {
        self.with(|guard| guard.speaks_grpc = true)
    }

    /// Sets the body of refusals. [`Problem`] by default. Has no effect with [`Self::grpc`].
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
            .field("verifier", &guard.verifier)
            .field("headers", &guard.headers)
            .field("allows_preflight", &guard.allows_preflight)
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

/// Lets a tonic server guard one service and leave others open, for example health.
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
        // The service that is ready handles the request; its clone is for later requests.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // Only an identity from here counts.
            parts.extensions.remove::<Identity>();
            if guard.allows_preflight && is_preflight(&parts) {
                credential::remove(&mut parts.headers, &guard.headers);
            } else {
                match guard.judge(&mut parts).await {
                    Ok(identity) => drop(parts.extensions.insert(identity)),
                    Err(refusal) => return Ok(guard.refuse(&refusal).map(Either::Right)),
                }
            }
            let response = inner.call(Request::from_parts(parts, body)).await?;
            Ok(response.map(Either::Left))
        })
    }
}

/// Every error of a call, because none says anything about the key.
impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        Self::unavailable(error.retry_after)
    }
}

/// Whether it is a preflight request as the Fetch standard defines it.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

impl Guard {
    /// Removes the key from the request and verifies it.
    async fn judge(&self, parts: &mut Parts) -> Result<Identity, Refusal> {
        let api_key = credential::take(&mut parts.headers, &self.headers)?;
        let request = VerifyRequest {
            api_key,
            required_scopes: self.scopes.clone(),
            client_ip: self.client_ip.find(parts),
            consistency: self.consistency,
        };
        match self.verifier.verify(request).await {
            Ok(verdict) => Refusal::check(verdict),
            Err(error) => {
                if error.kind != ErrorKind::Unavailable && self.faults.is_due() {
                    tracing::error!(%error, "cannot verify keys: this deployment is misconfigured");
                } else {
                    tracing::debug!(%error, "cannot verify a key");
                }
                Err(Refusal::from(&error))
            }
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Full<Bytes>> {
        tracing::debug!(reason = refusal.code(), "refused a request");
        if self.speaks_grpc {
            return refusal.grpc().into_http();
        }
        let rendered = self.body.render(refusal);
        let mut response = Response::new(Full::new(rendered.body));
        *response.status_mut() = rendered.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, rendered.content_type);
        refusal.add_headers(headers, &self.headers, &self.realm, &self.scopes);
        response
    }
}
