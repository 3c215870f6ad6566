//! The side port: `/metrics`, `/livez`, `/readyz`, `/version`, and perhaps a page. It runs on its own thread with a low
//! priority, and everything that a client can hold is limited, so that it delays no other thread. Other small listeners
//! have the same limits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Page, VERSION};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// The maximum size of a request's headers, and of what is written at once, in bytes.
const MAX_BUFFER: usize = 16 << 10;
/// The maximum number of connections. One more closes the oldest, so that idle clients cannot lock
/// out a probe.
const MAX_CONNECTIONS: usize = 64;
/// The time limit for a request's headers, and for an idle connection to send its next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The age at which a connection takes no further requests.
const MAX_AGE: Duration = Duration::from_secs(120);
/// The time limit for an answer to be read after that, and during a stop.
const GRACE: Duration = Duration::from_secs(5);
/// The shortest time between two renderings of the metrics.
const RENDER_INTERVAL: Duration = Duration::from_millis(250);
/// The pause of the acceptor after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The niceness of the side port's thread.
const NICENESS: i32 = 10;

/// What the side port reports about a program.
pub struct Probes {
    /// The name of the program.
    pub name: &'static str,
    /// The metrics as OpenMetrics text. Each rendering calls it, so it can update gauges.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// That the program can serve now, perhaps with a warning, or the reason why it cannot.
    pub ready: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    /// The page at `/`, if there is one.
    pub page: Option<Page>,
}

/// Serves the side port on `listener` until `shutdown` ends, then finishes the open requests.
///
/// # Errors
///
/// Those of the listener and of the thread.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (done, mut ended) = oneshot::channel();
    // The stop of the caller's runtime drops this future, and so the sender; that stops the thread.
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::Builder::new()
        .name("side-port".to_owned())
        .spawn(move || {
            // A failure leaves the priority as it was.
            let _ = rustix::process::nice(NICENESS);
            let result = runtime.block_on(async {
                let (listener, side) = (
                    TcpListener::from_std(listener)?,
                    Arc::new(Side::new(probes)),
                );
                let answer = move |request| {
                    let side = Arc::clone(&side);
                    async move { side.answer(&request).await }
                };
                serve_connections(&listener, MAX_CONNECTIONS, answer, async {
                    drop(stopped.await)
                })
                .await;
                io::Result::Ok(())
            });
            // The receiver is gone if the caller's runtime has stopped.
            let _ = done.send(result);
        })?;
    let ended = tokio::select! {
        ended = &mut ended => ended,
        () = shutdown => {
            drop(stop);
            ended.await
        }
    };
    ended.unwrap_or_else(|_| Err(io::Error::other("the side port panicked")))
}

/// Answers requests until `stopped`, then waits for the open ones. Of more than `max_connections`, it closes the oldest.
pub async fn serve_connections<F, B>(
    listener: &TcpListener,
    max_connections: usize,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    stopped: impl Future<Output = ()>,
) where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    tokio::pin!(stopped);
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    let (stop, _) = watch::channel(());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.retain(|task| !task.is_finished());
        if connections.len() >= max_connections
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let task = tokio::spawn(connection(stream, answer.clone(), stop.subscribe()));
        connections.push_back(task.abort_handle());
    }
    stop.send_replace(());
    // A slow reader must not delay the stop.
    let _ = timeout(GRACE, stop.closed()).await;
}

/// Serves one connection until its age, or until the stop.
async fn connection<F, B>(
    stream: TcpStream,
    answer: impl Fn(Request<Incoming>) -> F + Send,
    mut stop: watch::Receiver<()>,
) where
    F: Future<Output = Response<B>> + Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let answer = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER);
    let serving = http.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(serving);
    tokio::select! {
        // An error concerns only this client.
        _ = &mut serving => return,
        () = sleep(MAX_AGE) => {}
        _ = stop.changed() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, serving).await;
}

/// The latest rendering of the metrics.
struct Rendering {
    time: Instant,
    text: Bytes,
}

struct Side {
    probes: Probes,
    rendering: Mutex<Option<Rendering>>,
}

impl Side {
    fn new(probes: Probes) -> Self {
        Self {
            probes,
            rendering: Mutex::default(),
        }
    }

    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into());
        }
        let page = self.probes.page.as_ref();
        if let Some(answer) = page.and_then(|page| page.answer(request.uri(), request.headers())) {
            return answer;
        }
        match request.uri().path() {
            "/metrics" => response(StatusCode::OK, OPENMETRICS, self.metrics().await),
            "/livez" => response(StatusCode::OK, TEXT, "ok\n".into()),
            "/readyz" => match (self.probes.ready)() {
                Ok(text) => response(StatusCode::OK, TEXT, (text + "\n").into()),
                Err(reason) => response(
                    StatusCode::SERVICE_UNAVAILABLE,
                    TEXT,
                    (reason + "\n").into(),
                ),
            },
            "/version" => {
                let version = serde_json::json!({ "name": self.probes.name, "version": VERSION });
                let text = version.to_string().into();
                response(StatusCode::OK, "application/json", text)
            }
            _ => response(StatusCode::NOT_FOUND, TEXT, "not found\n".into()),
        }
    }

    /// A rendering that is not older than the request. Requests that wait share the next one, so a
    /// crowd costs a few renderings a second, and nobody gets old numbers.
    async fn metrics(&self) -> Bytes {
        let arrival = Instant::now();
        let mut rendering = self.rendering.lock().await;
        if let Some(latest) = &*rendering {
            if latest.time > arrival {
                return latest.text.clone();
            }
            sleep_until(latest.time + RENDER_INTERVAL).await;
        }
        let time = Instant::now();
        let text = Bytes::from((self.probes.metrics)());
        *rendering = Some(Rendering {
            time,
            text: text.clone(),
        });
        text
    }
}

pub(super) fn response(
    status: StatusCode,
    kind: &'static str,
    text: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::{JoinHandle, JoinSet};

    use super::*;

    /// A side port, its address, what stops it, and the number of renderings.
    struct Served {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        server: JoinHandle<io::Result<()>>,
        renderings: Arc<AtomicUsize>,
    }

    async fn start() -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let renderings = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&renderings);
        let probes = Probes {
            name: "example",
            metrics: Box::new(move || {
                format!(
                    "keyward_fresh {}\n# EOF\n",
                    count.fetch_add(1, Ordering::Relaxed)
                )
            }),
            ready: Box::new(|| Err("not fresh".to_owned())),
            page: None,
        };
        let server = tokio::spawn(serve(listener, probes, async { drop(stopped.await) }));
        Served {
            address,
            stop,
            server,
            renderings,
        }
    }

    /// Sends `request` and reads until the end of the connection.
    async fn send(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The side port can close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        send(address, &request).await
    }

    #[tokio::test]
    async fn side_port_answers_until_shutdown() {
        let served = start().await;
        let address = served.address;
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(answer.ends_with("keyward_fresh 0\n# EOF\n"));
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.ends_with("not fresh\n"),
            "{answer}"
        );
        let expected = format!("{{\"name\":\"example\",\"version\":\"{VERSION}\"}}");
        assert!(get(address, "/version").await.ends_with(&expected));
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let post = "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert!(send(address, post).await.starts_with("HTTP/1.1 405"));

        served.stop.send(()).unwrap();
        served.server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_crowd_of_scrapers_shares_a_rendering() {
        let served = start().await;
        get(served.address, "/metrics").await;
        let mut scrapers = JoinSet::new();
        for _ in 0..MAX_CONNECTIONS / 2 {
            scrapers.spawn(get(served.address, "/metrics"));
        }
        for answer in scrapers.join_all().await {
            assert!(!answer.contains("keyward_fresh 0"), "an old rendering");
        }
        // Some requests can arrive after the second rendering and wait for a third.
        let renderings = served.renderings.load(Ordering::Relaxed);
        assert!(renderings <= 4, "{renderings} renderings");
    }

    #[tokio::test]
    async fn headers_over_the_limit_are_refused() {
        let served = start().await;
        let long = "x".repeat(2 * MAX_BUFFER);
        let request = format!("GET /livez HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n");
        let answer = send(served.address, &request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn idle_connections_do_not_lock_out_a_probe() {
        let served = start().await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 1 {
            idle.push(TcpStream::connect(served.address).await.unwrap());
        }
        assert!(
            get(served.address, "/livez")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let mut byte = [0];
        assert_eq!(
            idle[0].read(&mut byte).await.unwrap_or(0),
            0,
            "the oldest is closed"
        );
    }
}
