//! Serves one accepted connection by hyper: HTTP/2 for gRPC, and its calls in the connection's own task
//! until they wait for the first time. A call that never waits, such as a Verify hit, needs no other
//! task. Requests of plain HTTP come by HTTP/1.1 or HTTP/2.

use std::convert::Infallible;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use super::connection::{Connection, OPENING_TIMEOUT, STALL};
use super::door::{Door, Http};
use super::handler::BoxedCall;
use super::immediate::{Answer, Begun, Reply, may_be_immediate};
use super::observe::Traced;
use super::peer::Peer;
use super::{CONNECTION_WINDOW, MAX_HTTP2_HEADERS, MAX_STREAMS, STREAM_WINDOW, Server};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The interval of pings that find a client which has vanished.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a connection of HTTP/1.1 may wait for the whole head of its next request. Proxies keep idle
/// connections for 60 s, and must not lose a race against this end.
const IDLE: Duration = Duration::from_secs(75);
/// The time limit for calls in progress on a connection that has reached its age.
const AGE_GRACE: Duration = Duration::from_secs(60);

impl Server {
    /// Serves `connection` until its client closes it. At its age, or at `stop`, it takes no more calls
    /// and ends after those in progress.
    pub(super) async fn serve(self, connection: Connection, stop: CancellationToken) {
        let peer = connection.peer();
        let age = self.max_age.map(|age| peer.age(age));
        let trusting = Arc::clone(&peer);
        let end = async move {
            let aged = async {
                match age {
                    Some(age) => tokio::time::sleep(age).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = aged => {}
                () = stop.cancelled() => {}
                // Its certificate must convince the new authorities.
                () = trusting.identity().authorities_replaced() => {}
            }
        };
        let door = connection.door();
        let serving = Arc::new(Serving { server: self, peer });
        match door {
            Door::Grpc => serve_grpc(connection, serving, end).await,
            Door::Http(http) => serve_http(connection, &http, &serving, end).await,
        }
    }
}

async fn serve_grpc(connection: Connection, serving: Arc<Serving>, end: impl Future<Output = ()>) {
    let queue = Queue::default();
    let mut http = http2::Builder::new(queue.clone());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HTTP2_HEADERS)
        .keep_alive_interval(KEEPALIVE);
    let peer = Arc::clone(&serving.peer);
    let mut driver = Driver {
        http: pin!(http.serve_connection(TokioIo::new(connection), Calls(serving))),
        queue,
        new: Vec::new(),
    };
    tokio::select! {
        biased;
        () = &mut driver => return,
        () = end => {}
    }
    peer.retire();
    driver.http.as_mut().graceful_shutdown();
    // Calls that take longer end with their connection.
    let _ = tokio::time::timeout(AGE_GRACE, driver).await;
}

async fn serve_http(
    connection: Connection,
    door: &Arc<dyn Http>,
    serving: &Arc<Serving>,
    end: impl Future<Output = ()>,
) {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HTTP2_HEADERS as usize);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HTTP2_HEADERS)
        .keep_alive_interval(KEEPALIVE);
    let is_open = AtomicBool::new(false);
    let answer = service_fn(|request: Request<Incoming>| {
        is_open.store(true, Relaxed);
        door.answer(request, serving)
    });
    let mut driver = pin!(http.serve_connection(TokioIo::new(connection), answer));
    // A client that sends no request in time, or a part of one, holds a connection for nothing.
    let silent = async {
        tokio::time::sleep(OPENING_TIMEOUT).await;
        if is_open.load(Relaxed) {
            pending().await
        }
    };
    let mut must_close = pin!(Arc::clone(&serving.peer).must_close(STALL));
    tokio::select! {
        biased;
        _ = &mut driver => return,
        () = silent => return,
        () = &mut must_close => return,
        () = end => {}
    }
    if is_open.load(Relaxed) {
        driver.as_mut().graceful_shutdown();
        // Calls that take longer end with their connection.
        tokio::select! {
            _ = driver => {}
            () = must_close => {}
            () = tokio::time::sleep(AGE_GRACE) => {}
        }
    }
}

/// The calls of one connection.
struct Calls(Arc<Serving>);

/// What serves one connection.
pub(super) struct Serving {
    pub(super) server: Server,
    pub(super) peer: Arc<Peer>,
}

impl Serving {
    /// Hands a call to the layers.
    pub(super) fn through_layers(&self, mut request: Request<Body>) -> BoxedCall {
        request.extensions_mut().insert(Arc::clone(&self.peer));
        self.server.handler.through_layers(request)
    }
}

impl hyper::service::Service<Request<Incoming>> for Calls {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, mut request: Request<Incoming>) -> Call {
        if self.0.server.sampling.traces(request.headers()) {
            request.extensions_mut().insert(Traced);
        } else if may_be_immediate(&request) {
            return Call::New(Some((request, Arc::clone(&self.0))));
        }
        Call::Layers(self.0.through_layers(request.map(Body::new)))
    }
}

/// A call in progress.
#[expect(
    clippy::large_enum_variant,
    reason = "a call that is answered at once allocates nothing for it"
)]
enum Call {
    /// It was not polled yet, and may be answered at once.
    New(Option<(Request<Incoming>, Arc<Serving>)>),
    /// It waits for a read.
    Later(BoxFuture<'static, Response<Reply>>),
    /// The layers handle it.
    Layers(BoxedCall),
}

impl Future for Call {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Self::New(new) = &mut *self
            && let Some((request, serving)) = new.take()
        {
            let (parts, mut body) = request.map(Begun::new).into_parts();
            let handler = &serving.server.handler;
            let answer = match body.whole(cx) {
                Some(data) => handler.at_once(&parts, data, &serving.peer),
                None => None,
            };
            *self = match answer {
                Some(Answer::Now(response)) => return Poll::Ready(Ok(response)),
                Some(Answer::Later(response)) => Self::Later(response),
                None => {
                    let request = Request::from_parts(parts, Body::new(body));
                    Self::Layers(serving.through_layers(request))
                }
            };
        }
        match &mut *self {
            Self::Later(response) => response.as_mut().poll(cx).map(Ok),
            Self::Layers(call) => {
                let response = ready!(call.as_mut().poll(cx));
                Poll::Ready(response.map(|response| response.map(Reply::Layers)))
            }
            Self::New(_) => Poll::Pending,
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The calls that hyper has accepted and nobody has polled yet.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Vec<Task>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Queue {
    fn execute(&self, call: F) {
        self.0.lock().push(Box::pin(call));
    }
}

/// Drives HTTP/2 and polls each new call once. A call that then waits becomes a task of its own.
struct Driver<C> {
    http: C,
    queue: Queue,
    new: Vec<Task>,
}

impl<C, E> Future for Driver<Pin<&mut C>>
where
    C: Future<Output = Result<(), E>>,
    E: std::error::Error,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(ended) = this.http.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection failed");
                }
                return Poll::Ready(());
            }
            std::mem::swap(&mut *this.queue.0.lock(), &mut this.new);
            if this.new.is_empty() {
                return Poll::Pending;
            }
            for mut call in this.new.drain(..) {
                let mut first = Context::from_waker(Waker::noop());
                // A panic ends its own call, as it does in a task.
                let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut first)));
                if let Ok(Poll::Pending) = polled {
                    tokio::spawn(call);
                }
            }
        }
    }
}
