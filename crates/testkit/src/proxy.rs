//! A TCP proxy before any server, that a test can cut, stop up or make lie; of a Postgres it can lose
//! the notifications alone. It runs on a thread and a runtime of its own, so that a test that blocks
//! does not block it.

mod frames;
mod noise;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use frames::Frames;
use noise::Noise;

/// Which way of a connection is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swallowed {
    /// What clients send does not arrive.
    Requests,
    /// What the server answers does not arrive.
    Answers,
}

/// What is done to connections.
#[derive(Clone, Copy, Default)]
struct Mode {
    black_hole: bool,
    refuse: bool,
    drop_notifications: bool,
    half_open: Option<Swallowed>,
    garbage: bool,
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

    /// From now on all that comes this way is lost, and so is the end of it, while the other way is
    /// open; connections stay so, and new ones are taken. With `None` what comes passes again.
    pub fn half_open(&self, swallowed: Option<Swallowed>) {
        self.change(|mode| mode.half_open = swallowed);
    }

    /// While on, every byte of the server's answers is another one, such as no text and no message
    /// of Redis has.
    pub fn garbage(&self, on: bool) {
        self.change(|mode| mode.garbage = on);
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
        let (mut frames, mut noise) = (Frames::default(), Noise::default());
        let filter = passing.clone();
        let filtered = move |bytes: &mut Vec<u8>| {
            let mode = *filter.borrow();
            let lost = frames.filter(bytes, mode.drop_notifications);
            dropped.fetch_add(lost, Ordering::Relaxed);
            if mode.garbage {
                noise.replace(bytes);
            }
        };
        let (requests, answers) = (Swallowed::Requests, Swallowed::Answers);
        tokio::try_join!(
            pump(from_client, to_server, requests, passing.clone(), |_| {}),
            pump(from_server, to_client, answers, passing, filtered),
        )
        .ok()
    };
    tokio::select! {
        _ = pass => {}
        // Also when the proxy was dropped.
        _ = mode.wait_for(|mode| mode.cuts > cuts) => {}
    }
}

/// Passes on what comes this way, and the end of it, unless there is a black hole or the way is dead.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Swallowed,
    mut mode: watch::Receiver<Mode>,
    mut filter: impl FnMut(&mut Vec<u8>),
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(16 << 10);
    loop {
        bytes.clear();
        let read = from.read_buf(&mut bytes).await?;
        let passes = |mode: &Mode| !mode.black_hole;
        if read == 0 {
            let ends = |mode: &Mode| passes(mode) && mode.half_open != Some(way);
            let open = mode.wait_for(ends).await.map(drop);
            open.map_err(io::Error::other)?;
            return to.shutdown().await;
        }
        let open = mode.wait_for(passes).await.map(|mode| *mode);
        if open.map_err(io::Error::other)?.half_open == Some(way) {
            continue;
        }
        filter(&mut bytes);
        to.write_all(&bytes).await?;
    }
}
