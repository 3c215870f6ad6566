//! The doors of the service: gRPC, and requests of plain HTTP that another module answers by calls in
//! this process. Such a call passes the same layers as a call by gRPC: authentication, limits, deadline,
//! metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::{Code, Status};

use super::body::{PREFIX, RequestBody};
use super::gate::{SHORT_MESSAGE, check_headers};
use super::immediate::{Answer, Reply, VERIFY, framed};
use super::observe::Traced;
use super::peer::{LimitError, Peer, Reservation};
use super::serve::Serving;
use super::status;
use crate::service::ServiceError;

/// Answers requests of plain HTTP.
pub trait Http: Send + Sync + 'static {
    /// The response to `request`, by calls of `services`.
    fn respond(
        self: Arc<Self>,
        request: Request<RequestBody>,
        services: Services,
    ) -> BoxFuture<'static, Response<Bytes>>;
}

/// What a connection is for.
#[derive(Clone)]
pub(super) enum Door {
    /// gRPC.
    Grpc,
    /// Plain HTTP.
    Http(Arc<dyn Http>),
}

impl dyn Http {
    /// Answers one request of a connection. Its body and the response count in the connection's budget.
    pub(super) fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        serving: &Arc<Serving>,
    ) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + use<> {
        let peer = Arc::clone(&serving.peer);
        let has_called = Arc::<AtomicBool>::default();
        let services = Services {
            serving: Arc::clone(serving),
            head: Arc::new(head(&request, &peer)),
            has_called: Arc::clone(&has_called),
        };
        let request = request.map(|body| {
            let broken = |_| status::undecodable("the body is broken");
            RequestBody::new(Body::new(body.map_err(broken)), peer.reservation())
        });
        let work = Arc::clone(self).respond(request, services);
        async move {
            let (mut head, body) = work.await.into_parts();
            // The layers count a call.
            if !has_called.load(Relaxed) {
                peer.count_call();
            }
            let (mut body, granted) = peer.counted(body);
            let is_optional = !has_called.load(Relaxed) || !peer.is_caller();
            if granted.is_err() && is_optional {
                body = Bytes::new();
                if head.status.is_success() {
                    head.status = StatusCode::TOO_MANY_REQUESTS;
                    head.headers
                        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
                }
            }
            Ok(Response::from_parts(head, Full::new(body)))
        }
    }
}

/// Checks the size of the head of a request. That of a stranger counts until it is answered.
fn head<B>(request: &Request<B>, peer: &Arc<Peer>) -> Result<Reservation, LimitError> {
    let bytes = check_headers(request.headers(), request.uri())?;
    let mut held = peer.reservation();
    if !peer.is_caller() {
        held.grow(bytes)?;
    }
    Ok(held)
}

/// Calls the services in this process, for a request of one connection.
#[derive(Clone)]
pub struct Services {
    serving: Arc<Serving>,
    head: Arc<Result<Reservation, LimitError>>,
    /// Whether a call was made. The answer of a caller's call is not refused: it may be a change.
    has_called: Arc<AtomicBool>,
}

impl Services {
    /// Calls the unary method at `path` with the metadata `headers`, and returns the encoded response.
    /// The encoded `message` is awaited after its caller is authenticated.
    ///
    /// # Errors
    ///
    /// Those of `message` and of the method; the head of the request is over a limit.
    pub async fn call(
        &self,
        path: &Uri,
        headers: HeaderMap,
        message: impl Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
    ) -> Result<Bytes, Status> {
        if let Err(error) = *self.head {
            return Err(error.into());
        }
        self.has_called.store(true, Relaxed);
        let Serving { server, peer } = &*self.serving;
        let mut call = Request::new(());
        *call.method_mut() = Method::POST;
        *call.uri_mut() = path.clone();
        *call.headers_mut() = headers;
        let grpc = HeaderValue::from_static("application/grpc");
        call.headers_mut().insert(CONTENT_TYPE, grpc);
        let is_traced = server.sampling.traces(call.headers());
        if is_traced {
            call.extensions_mut().insert(Traced);
        }
        if !is_traced && peer.is_caller() && path.path() == VERIFY {
            let message = message.await.map(|message| framed(&message));
            let (parts, ()) = call.into_parts();
            if let Ok(message) = &message
                && let Some(answer) = server.handler.at_once(&parts, message, peer)
            {
                let response = match answer {
                    Answer::Now(response) => response,
                    Answer::Later(response) => response.await,
                };
                let (parts, body) = response.into_parts();
                return match body {
                    Reply::Message(framed, _) => Ok(framed.slice(PREFIX..)),
                    body => unary(Response::from_parts(parts, body)).await,
                };
            }
            let body = Body::new(Full::from(message?).map_err(|never| match never {}));
            return self.pass(Request::from_parts(parts, body)).await;
        }
        let frame = async { Ok::<_, Status>(Frame::data(framed(&message.await?))) };
        let body = Body::new(StreamBody::new(stream::once(frame)));
        self.pass(call.map(|()| body)).await
    }

    /// Whether the client has opened the connection with a certificate.
    pub fn has_certificate(&self) -> bool {
        self.serving.peer.identity().certificate().is_some()
    }

    /// Whether no call on the connection had a valid caller so far.
    pub fn is_stranger(&self) -> bool {
        !self.serving.peer.is_caller()
    }

    /// Does `work` on so many bytes: at once if they are few, otherwise on the threads of long calls.
    ///
    /// # Errors
    ///
    /// Those of `work`; INTERNAL if it panics.
    pub async fn convert<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        if bytes <= SHORT_MESSAGE {
            return work();
        }
        let long_calls = &self.serving.server.long_calls;
        let task = AbortOnDropHandle::new(long_calls.spawn(async { work() }));
        task.await
            .unwrap_or_else(|_| Err(ServiceError::Internal.into()))
    }

    async fn pass(&self, call: Request<Body>) -> Result<Bytes, Status> {
        match self.serving.through_layers(call).await {
            Ok(response) => unary(response).await,
            Err(never) => match never {},
        }
    }
}

/// The message of a unary response, or its status.
async fn unary<B>(response: Response<B>) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes, Error = Status>,
{
    let failed = |headers: &HeaderMap| {
        Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
    };
    let (parts, body) = response.into_parts();
    if let Some(status) = failed(&parts.headers) {
        return Err(status);
    }
    let body = body.collect().await?;
    if let Some(status) = body.trailers().and_then(failed) {
        return Err(status);
    }
    let mut message = body.to_bytes();
    match message.len() {
        PREFIX.. => Ok(message.split_off(PREFIX)),
        _ => Err(ServiceError::Internal.into()),
    }
}
