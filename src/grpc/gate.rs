//! The layer before both services. It authenticates the caller by the headers, before the body is read, and
//! keeps each call within the limits of its connection. Long calls run on threads of their own.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, Uri};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tower::Service;
use tracing::Instrument as _;

use super::agent::LocalCallers;
use super::body::{RequestBody, ResponseBody};
use super::observe::{METHODS, WATCH};
use super::origin::Called;
use super::peer::{CallGuard, LimitError, Peer};
use super::{MAX_HEADERS, MAX_REQUEST};
use crate::auth::Callers;
use crate::service::ServiceError;

/// The overhead of a header in HTTP/2's size of a header list (RFC 9113, 6.5.2), in bytes.
const HEADER_OVERHEAD: usize = 32;
/// A message of more bytes takes so long to decode that it must not delay short calls.
pub(super) const SHORT_MESSAGE: usize = 8 << 10;
/// The calls that take long even if their message is short. They are reads, so their responses may be
/// refused.
const LONG_READS: [&str; 7] = [
    "/keyward.v1.ApiKeyService/VerifyBatch",
    "/keyward.v1.ApiKeyService/List",
    "/keyward.v1.AdminService/ListTokens",
    "/keyward.v1.AdminService/ExportKeys",
    "/keyward.v1.AdminService/GetKeyringStatus",
    "/keyward.v1.AdminService/ListAuditEvents",
    "/keyward.v1.AdminService/VerifyAudit",
];

/// Judges who calls.
#[derive(Clone)]
pub(super) enum Doorkeeper {
    /// The service: by tokens of Keyward.
    Tokens(Arc<Callers>),
    /// An agent.
    Agent(Arc<LocalCallers>),
}

/// Which calls pass a gate, and where they run.
#[derive(Clone)]
pub(super) struct Admission {
    /// Judges the callers.
    pub(super) doorkeeper: Doorkeeper,
    /// Runs the long calls.
    pub(super) long_calls: Handle,
}

/// Lets a call pass to `inner` if its caller and the limits allow it.
#[derive(Clone)]
pub(super) struct Gate<S> {
    pub(super) inner: S,
    pub(super) admission: Admission,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let waiting = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, waiting);
        let admission = self.admission.clone();
        Box::pin(async move {
            match admission.admit(request).await {
                Ok(admitted) => admission.pass(admitted, inner).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// What a path asks for.
pub(super) enum Kind {
    /// A call of our services, which needs a token.
    Keyward,
    /// A near-cache's stream.
    Stream,
    /// Health or reflection, which need none.
    Open { is_reflection: bool },
    /// Anything else, which is refused without reading its body.
    Unknown,
}

impl Kind {
    pub(super) fn of(path: &str) -> Self {
        if METHODS.contains(&path) && !path.starts_with("/grpc.") {
            Self::Keyward
        } else if path.starts_with("/grpc.reflection.") {
            Self::Open {
                is_reflection: true,
            }
        } else if path.starts_with("/grpc.health.") {
            Self::Open {
                is_reflection: false,
            }
        } else {
            Self::Unknown
        }
    }
}

/// An admitted call.
struct Admitted {
    request: Request<Body>,
    peer: Arc<Peer>,
    kind: Kind,
    is_long: bool,
    open: Vec<CallGuard>,
}

impl Admission {
    /// Authenticates the caller, and waits for the first bytes of the message of a caller.
    async fn admit(&self, mut request: Request<Body>) -> Result<Admitted, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let peer = peer.ok_or(ServiceError::Internal)?;
        peer.count_call();
        let header_bytes = check_headers(request.headers(), request.uri())?;
        let kind = Kind::of(request.uri().path());
        let mut open = Vec::new();
        match kind {
            Kind::Keyward => {
                self.judge(&mut request, header_bytes, &peer).await?;
                let path = request.uri().path();
                let called = METHODS.iter().find(|known| **known == path);
                if let Some(path) = called {
                    request.extensions_mut().insert(Called(path));
                }
            }
            Kind::Open { is_reflection } => {
                open.push(peer.open_call()?);
                if is_reflection {
                    open.push(peer.peers().open_reflection()?);
                }
            }
            Kind::Stream | Kind::Unknown => {}
        }
        if request.uri().path() == WATCH {
            // A stream has no end, and no message of it is kept.
            return Ok(Admitted {
                request,
                peer,
                kind: Kind::Stream,
                is_long: false,
                open,
            });
        }
        let (parts, body) = request.into_parts();
        let mut body = RequestBody::new(body, peer.reservation());
        let mut is_long = false;
        if matches!(kind, Kind::Keyward) {
            let announced = body.announced().await?;
            is_long = announced.is_none_or(|bytes| bytes > SHORT_MESSAGE)
                || LONG_READS.contains(&parts.uri.path());
            // A longer message is refused by its length.
            if is_long && announced.is_none_or(|bytes| bytes <= MAX_REQUEST) {
                body.complete().await?;
            }
        }
        Ok(Admitted {
            request: Request::from_parts(parts, Body::new(body)),
            peer,
            kind,
            is_long,
            open,
        })
    }

    /// Judges the caller, and notes it in the request. What a stranger's call holds meanwhile counts.
    async fn judge(
        &self,
        request: &mut Request<Body>,
        bytes: usize,
        peer: &Arc<Peer>,
    ) -> Result<(), Status> {
        let mut held = peer.reservation();
        if !peer.is_caller() {
            held.grow(bytes)?;
        }
        let callers = match &self.doorkeeper {
            Doorkeeper::Tokens(callers) => callers,
            Doorkeeper::Agent(callers) => {
                let sender = callers.judge(request.headers(), request.uri().path(), peer)?;
                request.extensions_mut().insert(sender);
                return Ok(());
            }
        };
        let headers = request.headers();
        let values = headers.get_all(AUTHORIZATION).into_iter();
        let values = values.map(|value| value.as_bytes());
        let identity = peer.identity();
        // Each name of a certificate is a look-up, and those of no caller are read again soon.
        let known = match (identity.certificate(), headers.contains_key(AUTHORIZATION)) {
            (Some(_), false) => identity.known_caller(None),
            _ => None,
        };
        let caller = match known.filter(|known| callers.is_valid_now(known)) {
            Some(known) => known,
            None => {
                let judging = callers.authenticate(values, identity.certificate());
                judging.await.map_err(ServiceError::from)?
            }
        };
        peer.has_caller();
        let value = headers.get(AUTHORIZATION);
        peer.identity()
            .remember(value.map(|value| value.as_bytes()), &caller);
        request.extensions_mut().insert(caller);
        Ok(())
    }

    /// Passes the call to `inner`, on the threads of long calls if it is long.
    async fn pass<S>(&self, admitted: Admitted, mut inner: S) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
    {
        let Admitted {
            request,
            peer,
            kind,
            is_long,
            open,
        } = admitted;
        if matches!(kind, Kind::Stream) {
            let (parts, body) = inner.call(request).await?.into_parts();
            let body = ResponseBody::new(body, peer, true, open);
            return Ok(Response::from_parts(parts, Body::new(body)));
        }
        // On an agent such a call waits for Keyward, and others must not wait for it.
        let has_turns = matches!(self.doorkeeper, Doorkeeper::Tokens(_));
        let work = async move {
            let is_ours = matches!(kind, Kind::Keyward);
            let is_long_read = LONG_READS.contains(&request.uri().path());
            let turn = match is_long_read && has_turns {
                true => Some(peer.long_read().await),
                false => None,
            };
            let (parts, body) = inner.call(request).await?.into_parts();
            let is_optional = !is_ours || is_long_read;
            let mut body = ResponseBody::new(body, Arc::clone(&peer), is_optional, open);
            if is_ours && let Err(status) = body.encode().await {
                return Ok(status.into_http());
            }
            drop(turn);
            Ok(Response::from_parts(parts, Body::new(body)))
        };
        if !is_long {
            return work.await;
        }
        // The call ends when its client leaves, as any other call does.
        let task = AbortOnDropHandle::new(self.long_calls.spawn(work.in_current_span()));
        task.await
            .unwrap_or_else(|_| Ok(Status::from(ServiceError::Internal).into_http()))
    }
}

/// The size of the headers. Those over our limit are refused; those over the higher limit of HTTP/2 do
/// not come this far.
pub(super) fn check_headers(headers: &HeaderMap, uri: &Uri) -> Result<usize, LimitError> {
    let sizes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let bytes = sizes.sum::<usize>() + target;
    if bytes > MAX_HEADERS {
        return Err(LimitError::HeadersTooLarge);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::LONG_READS;

    #[test]
    fn long_reads_are_documented() {
        let page = include_str!("../../docs/reference/limits.md");
        let names: Vec<_> = LONG_READS
            .iter()
            .map(|path| path.rsplit('/').next().unwrap())
            .collect();
        let (last, others) = names.split_last().unwrap();
        let sentence = format!("**Long reads** are {} and {last}.", others.join(", "));
        assert!(page.contains(&sentence), "{sentence}");
    }
}
