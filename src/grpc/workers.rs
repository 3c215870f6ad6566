//! The threads that serve: one current-thread runtime each, fed by one acceptor that hands every
//! connection to the least loaded. With no such threads one runtime does it all.

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
use super::connection::{Connection, Counted};
use super::tls::{Tls, handshakes};
use keyward_ops::Metrics;

/// How long the acceptor rests when the system has no more file descriptors.
const REST: Duration = Duration::from_millis(50);

/// One serving thread as the acceptor sees it.
struct Worker {
    connections: mpsc::UnboundedSender<std::net::TcpStream>,
    load: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// The serving threads.
pub struct Workers(Vec<Worker>);

impl Workers {
    /// Starts `count` threads that serve `server` until `stop`, and drain then; through `tls`, if
    /// there is one.
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

    /// Serves on the runtime that this is called from: one thread for all.
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
            // A thread that panicked has ended as well.
            let _ = worker.ended.await;
        }
    }

    /// Hands a connection to the least loaded thread; one that is gone gets none.
    fn hand_out(&self, mut stream: std::net::TcpStream) {
        let mut alive: Vec<&Worker> = self.0.iter().collect();
        alive.sort_by_key(|worker| worker.load.load(Ordering::Relaxed));
        for worker in alive {
            worker.load.fetch_add(1, Ordering::Relaxed);
            match worker.connections.send(stream) {
                Ok(()) => return,
                Err(mpsc::error::SendError(returned)) => stream = returned,
            }
        }
        tracing::error!("every serving thread is gone; a connection was dropped");
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
            adopt(stream, Counted::new(Arc::clone(&counted), gauge.clone()))
        });
        let incoming =
            match tls {
                None => {
                    let stop = stop.clone();
                    Either::Left(accepted.map(move |(stream, counted)| {
                        Connection::plain(stream, counted, stop.clone())
                    }))
                }
                Some(tls) => Either::Right(handshakes(accepted, tls, stop.clone())),
            };
        let incoming = incoming.map(Ok::<_, io::Error>);
        let served = server
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "a serving thread ended");
        }
        // Nobody waits any more when the process is being aborted.
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

/// A connection that was handed out, as one of this thread's runtime.
fn adopt(stream: std::net::TcpStream, counted: Counted) -> Option<(TcpStream, Counted)> {
    match TcpStream::from_std(stream) {
        Ok(stream) => Some((stream, counted)),
        Err(error) => {
            tracing::debug!(%error, "a connection was gone before it was served");
            None
        }
    }
}

/// Accepts on `listener` and hands out, until `stop`; then gives the threads back.
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
                // Said about once a second.
                if failures.is_multiple_of(20) {
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                failures += 1;
                // Out of file descriptors or memory: others must end first.
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        match stream.set_nodelay(true).and_then(|()| stream.into_std()) {
            Ok(stream) => workers.hand_out(stream),
            Err(error) => tracing::debug!(%error, "a connection was gone before it was served"),
        }
    }
}
