//! Answers a Verify, or a Check of Envoy, of a caller that its connection knows, below tonic's router and
//! codec: in the task of the connection if it needs no I/O, otherwise after its read. Every other call
//! goes through the layers. Both ways give the same bytes.
//!
//! Upholds I4, with `cache`: each call is admitted and judged by itself, after it arrived.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use keyward_core::fence::Now;
use keyward_core::key::{Clock, Role};
use keyward_guard::Verdict;
use keyward_ops::RpcMetrics;
use keyward_ops::traces::rpc_span;
use keyward_proto::envoy::CheckRequest;
use keyward_proto::v1;
use prost::Message as _;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::body::PREFIX;
use super::envoy::{Asked, Envoy};
use super::gate::{SHORT_MESSAGE, check_headers};
use super::observe::{CHECK, Observer, Unanswered};
use super::peer::{Peer, Unsent};
use super::{Api, convert, deadline};
use crate::service::{ServiceError, Verified, Verify};

/// The bytes in which the answer for most keys fits.
const USUAL_ANSWER: usize = 187;
/// The path of Verify.
pub const VERIFY: &str = "/keyward.v1.ApiKeyService/Verify";

/// The answer to a call.
pub(super) enum Answer {
    /// It needed no I/O.
    Now(Response<Reply>),
    /// It waits for a read.
    Later(BoxFuture<'static, Response<Reply>>),
}

/// Answers calls of the service below the layers.
pub(super) struct Immediate {
    api: Api,
    methods: Methods,
}

/// The methods that can be answered below the layers.
pub(super) struct Methods {
    verify: RpcMetrics,
    check: RpcMetrics,
    clock: Arc<dyn Clock>,
}

/// What a call asks for, and so the form of its answer.
pub(super) enum Question {
    Verify(Verify),
    Check(Box<Asked>),
}

impl Question {
    /// What a call of the method at `path` asks for. `None` says nothing: the layers answer it.
    pub(super) fn read(path: &str, message: &[u8], envoy: &Envoy) -> Option<Self> {
        Some(match path {
            CHECK => {
                let request = CheckRequest::decode(message).ok()?;
                Self::Check(Box::new(envoy.ask(request).ok()?))
            }
            _ => Self::Verify(convert::verify(v1::VerifyRequest::decode(message).ok()?).ok()?),
        })
    }

    pub(super) fn verify(&self) -> &Verify {
        match self {
            Self::Verify(verify) => verify,
            Self::Check(asked) => &asked.verify,
        }
    }
}

/// The message of a call whose whole body is `body`, and the time limit of the call. `None` says nothing:
/// the layers answer it.
pub(super) fn begin<'b>(call: &Parts, body: &'b [u8]) -> Option<(&'b [u8], Option<Duration>)> {
    let message = message(body)?;
    check_headers(&call.headers, &call.uri).ok()?;
    let limit = deadline::limit(&call.headers).ok()?;
    let is_over = limit.is_some_and(|limit| limit.is_zero());
    (!is_over).then_some((message, limit))
}

impl Methods {
    /// Calls are observed as `observer` observes them.
    pub(super) fn new(observer: &Observer, clock: Arc<dyn Clock>) -> Self {
        Self {
            verify: observer.method(VERIFY).clone(),
            check: observer.method(CHECK).clone(),
            clock,
        }
    }

    /// The time now.
    pub(super) fn now(&self) -> Now {
        Now::read(&*self.clock)
    }

    fn of(&self, question: &Question) -> &RpcMetrics {
        match question {
            Question::Verify(_) => &self.verify,
            Question::Check(_) => &self.check,
        }
    }

    /// The response to a call that arrived at `now`, with the message that `encode` makes.
    pub(super) fn respond(
        &self,
        question: Question,
        encode: impl FnOnce(Question) -> Result<Bytes, Status>,
        peer: &Arc<Peer>,
        now: Now,
    ) -> Response<Reply> {
        let metrics = self.of(&question);
        let (code, response) = match encode(question) {
            Ok(reply) => {
                let (unsent, _) = peer.reserve_response(reply.len());
                let mut response = Response::new(Reply::Message(reply, unsent));
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(CONTENT_TYPE, grpc);
                (Code::Ok, response)
            }
            Err(status) => (status.code(), status.into_http().map(Reply::Layers)),
        };
        metrics.observe(code, self.clock.boot().since(now.boot));
        response
    }
}

impl Immediate {
    /// Answers for `api`.
    pub(super) fn new(api: Api, methods: Methods) -> Self {
        Self { api, methods }
    }

    /// The answer to a call whose whole message is `body`. `None` says nothing: the call must go
    /// through the layers.
    pub(super) fn answer(
        self: &Arc<Self>,
        call: &Parts,
        body: &[u8],
        peer: &Arc<Peer>,
    ) -> Option<Answer> {
        let now = self.methods.now();
        let (message, limit) = begin(call, body)?;
        let mut tokens = call.headers.get_all(AUTHORIZATION).into_iter();
        let token = tokens.next().map(|value| value.as_bytes());
        let caller = peer.identity().known_caller(token)?;
        let is_admitted = tokens.next().is_none()
            && caller.has(Role::Verifier)
            && self.api.callers.is_still_valid(&caller, now);
        if !is_admitted {
            return None;
        }
        let question = Question::read(call.uri.path(), message, &self.api.envoy)?;
        Some(match self.api.service.verify_now(question.verify(), now) {
            Ok(verified) => Answer::Now(self.respond(question, Ok(verified), peer, now)),
            Err(missed) => {
                let (this, peer) = (Arc::clone(self), Arc::clone(peer));
                let metrics = self.methods.of(&question).clone();
                let span = rpc_span(metrics.method(), None);
                let clock = Arc::clone(&self.methods.clock);
                let unanswered = Unanswered::new(clock, now.boot, metrics, span.clone());
                let work = async move {
                    let work = this.api.service.verify_behind(question.verify(), &missed);
                    let verified = deadline::within(limit, work).await;
                    unanswered.counted();
                    this.respond(question, verified, &peer, now)
                };
                Answer::Later(Box::pin(work.instrument(span)))
            }
        })
    }

    /// The response to a call that arrived at `now`.
    fn respond(
        &self,
        question: Question,
        verified: Result<Verified, ServiceError>,
        peer: &Arc<Peer>,
        now: Now,
    ) -> Response<Reply> {
        let encode = |question| {
            let verified = verified?;
            Ok(match (question, &verified.key) {
                (Question::Check(asked), _) => {
                    let verdict = Verdict::try_from(convert::verified(&verified, false));
                    let answer = self.api.envoy.answer(*asked, verdict.ok())?;
                    framed(&answer.encode_to_vec())
                }
                (Question::Verify(asked), Some(key)) if !asked.wants_entry => {
                    let shown = key.shown().into_iter();
                    frame(USUAL_ANSWER, |message| {
                        shown.for_each(|key| convert::encode_valid(key, message));
                    })
                }
                (Question::Verify(asked), _) => {
                    framed(&convert::verified(&verified, asked.wants_entry).encode_to_vec())
                }
            })
        };
        self.methods.respond(question, encode, peer, now)
    }
}

/// Whether a call can perhaps be answered below the layers.
pub(super) fn may_be_immediate(call: &Request<Incoming>) -> bool {
    [VERIFY, CHECK].contains(&call.uri().path())
        && call.method() == Method::POST
        && !call.headers().contains_key("grpc-encoding")
}

/// The only message of a body: short and not compressed.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [0, a, b, c, d] = *prefix else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    (length == message.len() && length <= SHORT_MESSAGE).then_some(message)
}

/// A message as gRPC sends it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    frame(message.len(), |bytes| bytes.put_slice(message))
}

/// The message that `write` appends, as gRPC sends it. It will have about `size` bytes.
fn frame(size: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + size);
    bytes.put_bytes(0, PREFIX);
    write(&mut bytes);
    // A record is far smaller than 4 GiB.
    let length = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

/// The body of a response.
pub(super) enum Reply {
    /// A message that counts as unsent while it is here, and then the status OK.
    Message(
        Bytes,
        #[expect(dead_code, reason = "counts until it is dropped")] Unsent,
    ),
    /// The status OK.
    Status,
    /// Nothing more.
    End,
    /// What a layer or a service answered.
    Layers(Body),
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = match &mut *self {
            Self::Layers(body) => return Pin::new(body).poll_frame(cx),
            Self::Message(..) => Self::Status,
            Self::Status | Self::End => Self::End,
        };
        Poll::Ready(match std::mem::replace(&mut *self, next) {
            Self::Message(bytes, _) => Some(Ok(Frame::data(bytes))),
            Self::Status => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::End | Self::Layers(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Layers(body) => body.is_end_stream(),
            Self::End => true,
            Self::Message(..) | Self::Status => false,
        }
    }
}

/// The body of a request, of which some frames may be read already.
pub(super) struct Begun {
    /// Most clients end with the message, some with an empty frame after it.
    read: [Option<Result<Frame<Bytes>, hyper::Error>>; 2],
    rest: Incoming,
}

impl Begun {
    pub(super) fn new(rest: Incoming) -> Self {
        Self {
            read: [None, None],
            rest,
        }
    }

    /// The data, if the whole body has arrived and its first frame holds all of it.
    pub(super) fn whole(&mut self, cx: &mut Context<'_>) -> Option<&Bytes> {
        for frame in &mut self.read {
            if !self.rest.is_end_stream()
                && let Poll::Ready(read) = Pin::new(&mut self.rest).poll_frame(cx)
            {
                *frame = read;
            }
        }
        let [Some(Ok(first)), second] = &self.read else {
            return None;
        };
        let is_end = match second {
            None => true,
            Some(Ok(frame)) => frame.data_ref().is_some_and(Bytes::is_empty),
            Some(Err(_)) => false,
        };
        first
            .data_ref()
            .filter(|_| is_end && self.rest.is_end_stream())
    }
}

impl http_body::Body for Begun {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.iter_mut().find_map(Option::take) {
            Some(read) => Poll::Ready(Some(read)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.iter().all(Option::is_none) && self.rest.is_end_stream()
    }
}
