//! A TCP proxy that a test can cut, stop up or make lose Postgres' notifications. It runs on a
//! thread and a runtime of its own, so that a test that blocks does not block it.

mod frames;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use frames::Frames;

/// What is done to connections.
#[derive(Clone, Copy, Default)]
struct Mode {
    black_hole: bool,
    refuse: bool,
    drop_notifications: bool,
    /// How often all connections were cut.
    cuts: u64,
}

/// A proxy on a free port of 127.0.0.1. It ends, and its connections with it, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: Option<watch::Sender<Mode>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one that connects to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("a free port can be listened on");
        listener
            .set_nonblocking(true)
            .expect("a listener can be made asynchronous");
        let address = listener.local_addr().expect("a listener has an address");
        let (mode, seen) = watch::channel(Mode::default());
        let dropped = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&dropped);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made")
                .block_on(accept(listener, target, seen, counter));
        });
        Self {
            address,
            mode: Some(mode),
            dropped,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// While on, not a byte passes, in either direction; connections stay open, and new ones are
    /// taken. What was held back passes afterwards.
    pub fn black_hole(&self, on: bool) {
        self.change(|mode| mode.black_hole = on);
    }

    /// While on, new connections are closed at once.
    pub fn refuse(&self, on: bool) {
        self.change(|mode| mode.refuse = on);
    }

    /// While on, `NotificationResponse` messages of a Postgres server are lost; the connection must
    /// not be encrypted.
    pub fn drop_notifications(&self, on: bool) {
        self.change(|mode| mode.drop_notifications = on);
    }

    /// How many notifications were lost so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.change(|mode| mode.cuts += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Mode)) {
        self.mode
            .as_ref()
            .expect("there until the end")
            .send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.mode.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

/// Takes connections until the proxy is dropped; those that are open end with the runtime.
async fn accept(
    listener: std::net::TcpListener,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    dropped: Arc<AtomicU64>,
) {
    let listener = TcpListener::from_std(listener).expect("the runtime takes a listener");
    loop {
        tokio::select! {
            changed = mode.changed() => if changed.is_err() {
                return;
            },
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if mode.borrow().refuse {
                    continue;
                }
                tokio::spawn(connection(client, target, mode.clone(), Arc::clone(&dropped)));
            }
        }
    }
}

/// One connection, until both sides have closed it, one fails, or it is cut.
async fn connection(
    client: TcpStream,
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    dropped: Arc<AtomicU64>,
) {
    let cuts = mode.borrow().cuts;
    let passing = mode.clone();
    let pass = async move {
        let mut open = passing.clone();
        open.wait_for(|mode| !mode.black_hole).await.ok()?;
        let server = TcpStream::connect(target).await.ok()?;
        // A proxy that gathers small packets would look like a slow network.
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut frames = Frames::default();
        let filter = passing.clone();
        let filtered = move |bytes: &mut Vec<u8>| {
            let lost = frames.filter(bytes, filter.borrow().drop_notifications);
            dropped.fetch_add(lost, Ordering::Relaxed);
        };
        tokio::try_join!(
            pump(from_client, to_server, passing.clone(), |_| {}),
            pump(from_server, to_client, passing, filtered),
        )
        .ok()
    };
    tokio::select! {
        _ = pass => {}
        // Also when the proxy was dropped.
        _ = mode.wait_for(|mode| mode.cuts > cuts) => {}
    }
}

/// Passes on what comes, and the end of it, unless there is a black hole.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    mut filter: impl FnMut(&mut Vec<u8>),
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(16 << 10);
    loop {
        bytes.clear();
        let read = from.read_buf(&mut bytes).await?;
        let open = mode.wait_for(|mode| !mode.black_hole).await.map(drop);
        open.map_err(io::Error::other)?;
        if read == 0 {
            return to.shutdown().await;
        }
        filter(&mut bytes);
        to.write_all(&bytes).await?;
    }
}
