//! The serving threads: each has its own current-thread runtime. One acceptor passes every connection
//! to the least loaded thread. With `workers = 0` the calling runtime serves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Server;
use super::connection::{Accepted, Connection, LoadGuard, Transport};
use super::door::{Door, Http};
use super::listener::{Listener, Socket};
use super::peer::{Peer, Peers};
use super::tls::{Tls, handshakes};
use keyward_ops::{PortMetrics, Tasks};

/// The pause of the acceptor after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A busy serving thread looks for new bytes after this many steps, so that a connection with much to
/// do does not delay the others. tokio's own value is 61.
const EVENT_INTERVAL: u32 = 8;
/// The acceptor's view of one serving thread.
struct Worker {
    connections: mpsc::UnboundedSender<(Socket, Arc<Peer>, Door)>,
    load: Arc<AtomicUsize>,
    ended: oneshot::Receiver<()>,
}

/// The serving threads.
pub struct Workers {
    workers: Vec<Worker>,
    peers: Arc<Peers>,
}

impl Workers {
    /// Starts `count` threads that serve `server`, with TLS if `tls` is set; with 0 the calling runtime serves.
    /// After `stop` they drain.
    pub fn start(
        count: usize,
        server: &Server,
        tls: Option<&Tls>,
        metrics: &PortMetrics,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> io::Result<Self> {
        let workers = (0..count.max(1)).map(|n| {
            let (worker, serving) = worker(n, server.clone(), tls.cloned(), metrics, tasks, stop);
            let name = format!("verify-{n}");
            if count == 0 {
                tasks.spawn(&name, serving);
                return Ok(worker);
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .event_interval(EVENT_INTERVAL)
                .enable_all()
                .build()?;
            let serving = tasks.supervise(&name, serving);
            std::thread::Builder::new()
                .name(name)
                .spawn(move || runtime.block_on(serving))?;
            Ok(worker)
        });
        Ok(Self {
            workers: workers.collect::<io::Result<_>>()?,
            peers: Arc::clone(&server.peers),
        })
    }

    /// Waits until every thread has drained.
    pub async fn ended(self) {
        for worker in self.workers {
            // An error means that the thread panicked, so it has ended as well.
            let _ = worker.ended.await;
        }
    }

    /// Passes a connection to the least loaded thread that still runs, if there is a place for it.
    fn dispatch(&self, socket: Socket, door: Door) {
        let Some(peer) = self.peers.admit(socket.address()) else {
            return;
        };
        let mut alive: Vec<&Worker> = self.workers.iter().collect();
        alive.sort_by_key(|worker| worker.load.load(Ordering::Relaxed));
        let mut connection = (socket, peer, door);
        for worker in alive {
            worker.load.fetch_add(1, Ordering::Relaxed);
            match worker.connections.send(connection) {
                Ok(()) => return,
                Err(mpsc::error::SendError(returned)) => connection = returned,
            }
        }
        tracing::error!("no serving thread runs; dropped a connection");
    }
}

fn worker(
    n: usize,
    server: Server,
    tls: Option<Tls>,
    metrics: &PortMetrics,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> (Worker, impl Future<Output = ()> + Send + 'static) {
    let (connections, incoming) = mpsc::unbounded_channel();
    let (done, ended) = oneshot::channel();
    let load = Arc::new(AtomicUsize::new(0));
    let (counted, gauge) = (Arc::clone(&load), metrics.connections(n));
    let (tasks, stop) = (tasks.clone(), stop.clone());
    let serving = async move {
        let accepted =
            UnboundedReceiverStream::new(incoming).filter_map(move |(socket, peer, door)| {
                let load = LoadGuard::new(Arc::clone(&counted), gauge.clone());
                let registered = register(socket, Accepted { peer, door, load });
                // Calls of open connections do not wait for a burst of new ones.
                yield_now().map(|()| registered)
            });
        match tls {
            None => {
                let opening = stop.clone();
                let plain = accepted.map(move |(transport, accepted)| {
                    Connection::new(transport, accepted, opening.clone())
                });
                serve(server, plain, stop).await;
            }
            Some(tls) => {
                let secured = handshakes(accepted, tls, &tasks, stop.clone());
                serve(server, secured, stop).await;
            }
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

/// Serves `connections` until `stop`, then drains them.
async fn serve(
    server: Server,
    connections: impl Stream<Item = Connection>,
    stop: CancellationToken,
) {
    let open = TaskTracker::new();
    let accepting = connections.for_each(|connection| {
        open.spawn(server.clone().serve(connection, stop.clone()));
        std::future::ready(())
    });
    stop.run_until_cancelled(accepting).await;
    open.close();
    open.wait().await;
}

/// Registers a dispatched connection with this thread's runtime.
fn register(socket: Socket, accepted: Accepted) -> Option<(Transport, Accepted)> {
    let transport = match socket {
        Socket::Tcp(stream) => TcpStream::from_std(stream).map(Transport::Plain),
        Socket::Unix(stream) => UnixStream::from_std(stream).map(Transport::Unix),
    };
    match transport {
        Ok(transport) => Some((transport, accepted)),
        Err(error) => {
            tracing::debug!(%error, "a connection closed before it was served");
            None
        }
    }
}

/// What the service listens on.
pub struct Listeners {
    /// The gRPC service.
    pub grpc: Listener,
    /// Requests of plain HTTP, and who answers them.
    pub http: Option<(Listener, Arc<dyn Http>)>,
}

impl Listeners {
    /// The next connection, and the door at which it came.
    async fn accept(&self) -> io::Result<(Socket, Door)> {
        let http = async {
            match &self.http {
                Some((listener, http)) => {
                    let socket = listener.accept().await?;
                    Ok((socket, Door::Http(Arc::clone(http))))
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            socket = self.grpc.accept() => Ok((socket?, Door::Grpc)),
            accepted = http => accepted,
        }
    }
}

/// Accepts connections on `listeners` and dispatches them until `stop`. Returns the threads.
pub async fn accept(listeners: Listeners, workers: Workers, stop: CancellationToken) -> Workers {
    let mut failures = 0_u64;
    while let Some(accepted) = stop.run_until_cancelled(listeners.accept()).await {
        match accepted {
            Ok((socket, door)) => workers.dispatch(socket, door),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // About once a second.
                if failures.is_multiple_of(20) {
                    tracing::warn!(%error, "cannot accept connections; retrying");
                }
                failures += 1;
                workers.peers.displace_one();
                // Without file descriptors or memory, another connection must end first.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    workers
}
