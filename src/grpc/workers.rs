//! The serving threads: each has its own current-thread runtime. One acceptor passes every connection
//! to the least loaded thread. With `workers = 0` the calling runtime serves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::Either;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Server;
use super::connection::{Connection, LoadGuard};
use super::tls::{Tls, handshakes};
use keyward_ops::Metrics;

/// The pause of the acceptor after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The acceptor's view of one serving thread.
struct Worker {
    connections: mpsc::UnboundedSender<std::net::TcpStream>,
    load: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// The serving threads.
pub struct Workers(Vec<Worker>);

impl Workers {
    /// Starts `count` threads that serve `server`, with TLS if `tls` is set. After `stop` they drain.
    pub fn start(
        count: usize,
        server: &Server,
        tls: Option<&Tls>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        (0..count)
            .map(|n| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let (worker, serving) = worker(n, server.clone(), tls.cloned(), metrics, stop);
                std::thread::Builder::new()
                    .name(format!("verify-{n}"))
                    .spawn(move || runtime.block_on(serving))?;
                Ok(worker)
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Serves on the calling runtime, without additional threads.
    pub fn here(
        server: &Server,
        tls: Option<&Tls>,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Self {
        let (worker, serving) = worker(0, server.clone(), tls.cloned(), metrics, stop);
        tokio::spawn(serving);
        Self(vec![worker])
    }

    /// Waits until every thread has drained.
    pub async fn ended(self) {
        for worker in self.0 {
            // An error means that the thread panicked, so it has ended as well.
            let _ = worker.ended.await;
        }
    }

    /// Passes a connection to the least loaded thread that still runs.
    fn dispatch(&self, mut stream: std::net::TcpStream) {
        let mut alive: Vec<&Worker> = self.0.iter().collect();
        alive.sort_by_key(|worker| worker.load.load(Ordering::Relaxed));
        for worker in alive {
            worker.load.fetch_add(1, Ordering::Relaxed);
            match worker.connections.send(stream) {
                Ok(()) => return,
                Err(mpsc::error::SendError(returned)) => stream = returned,
            }
        }
        tracing::error!("no serving thread runs; dropped a connection");
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({})", self.0.len())
    }
}

fn worker(
    n: usize,
    server: Server,
    tls: Option<Tls>,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> (Worker, impl Future<Output = ()> + Send + 'static) {
    let (connections, incoming) = mpsc::unbounded_channel();
    let (done, ended) = oneshot::channel();
    let load = Arc::new(AtomicUsize::new(0));
    let (counted, gauge) = (Arc::clone(&load), metrics.connections(n));
    let stop = stop.clone();
    let serving = async move {
        let accepted = UnboundedReceiverStream::new(incoming).filter_map(move |stream| {
            register(stream, LoadGuard::new(Arc::clone(&counted), gauge.clone()))
        });
        let incoming = match tls {
            None => {
                let stop = stop.clone();
                Either::Left(
                    accepted
                        .map(move |(stream, load)| Connection::plain(stream, load, stop.clone())),
                )
            }
            Some(tls) => Either::Right(handshakes(accepted, tls, stop.clone())),
        };
        let incoming = incoming.map(Ok::<_, io::Error>);
        let served = server
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "a serving thread failed");
        }
        // The receiver is gone if the process is being aborted.
        let _ = done.send(());
    };
    (
        Worker {
            connections,
            load,
            ended,
        },
        serving,
    )
}

/// Registers a dispatched connection with this thread's runtime.
fn register(stream: std::net::TcpStream, load: LoadGuard) -> Option<(TcpStream, LoadGuard)> {
    match TcpStream::from_std(stream) {
        Ok(stream) => Some((stream, load)),
        Err(error) => {
            tracing::debug!(%error, "a connection closed before it was served");
            None
        }
    }
}

/// Accepts connections on `listener` and dispatches them until `stop`. Returns the threads.
pub async fn accept(listener: TcpListener, workers: Workers, stop: CancellationToken) -> Workers {
    let mut failures = 0_u64;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return workers,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                // About once a second.
                if failures.is_multiple_of(20) {
                    tracing::warn!(%error, "cannot accept connections; retrying");
                }
                failures += 1;
                // Without file descriptors or memory, other connections must end first.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match stream.set_nodelay(true).and_then(|()| stream.into_std()) {
            Ok(stream) => workers.dispatch(stream),
            Err(error) => tracing::debug!(%error, "a connection closed before it was served"),
        }
    }
}
