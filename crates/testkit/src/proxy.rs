//! A TCP proxy before a server, with which a test causes faults: cut connections, a black hole,
//! delays, random bytes, or only the loss of Postgres notifications. It runs on its own thread, so that a
//! blocking test does not block it.

mod frames;
mod noise;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::server::{listen, run_on_thread};

use frames::Frames;
use noise::Noise;

/// The direction of a connection that loses its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swallowed {
    /// The requests of clients are lost.
    Requests,
    /// The responses of the server are lost.
    Answers,
}

/// The current fault.
#[derive(Clone, Copy, Default)]
struct Mode {
    black_hole: bool,
    refuse: bool,
    drop_notifications: bool,
    half_open: Option<Swallowed>,
    garbage: bool,
    /// How long data takes in each direction.
    delay: Duration,
    /// The number of times that all connections were cut.
    cuts: u64,
}

/// A proxy on a free port of 127.0.0.1. Dropping it ends it and its connections.
pub struct Proxy {
    address: SocketAddr,
    mode: Option<watch::Sender<Mode>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy that connects to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let (listener, address) = listen();
        let (mode, seen) = watch::channel(Mode::default());
        let dropped = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&dropped);
        let thread = run_on_thread(move || accept(listener, target, seen, counter));
        Self {
            address,
            mode: Some(mode),
            dropped,
            thread: Some(thread),
        }
    }

    /// The address of the proxy.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// While on, no byte passes in either direction. Connections stay open, and new ones are
    /// accepted. The delayed bytes pass when the fault ends.
    pub fn black_hole(&self, on: bool) {
        self.change(|mode| mode.black_hole = on);
    }

    /// While on, new connections are closed immediately.
    pub fn refuse(&self, on: bool) {
        self.change(|mode| mode.refuse = on);
    }

    /// Drops all data in this direction, including its end, while the other direction works.
    /// Connections stay open, and new ones are accepted. `None` ends the fault.
    pub fn half_open(&self, swallowed: Option<Swallowed>) {
        self.change(|mode| mode.half_open = swallowed);
    }

    /// While on, every byte of the server's responses is replaced by a byte that is not valid in a
    /// Redis message.
    pub fn garbage(&self, on: bool) {
        self.change(|mode| mode.garbage = on);
    }

    /// Delays all data by half of `round_trip` in each direction, like a distant server.
    pub fn delay(&self, round_trip: Duration) {
        self.change(|mode| mode.delay = round_trip / 2);
    }

    /// While on, `NotificationResponse` messages of a Postgres server are dropped. The connection
    /// must not be encrypted.
    pub fn drop_notifications(&self, on: bool) {
        self.change(|mode| mode.drop_notifications = on);
    }

    /// The number of dropped notifications.
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
            // The panic of the thread was already printed.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until the proxy is dropped. Open connections end with the runtime.
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

/// Serves one connection until both sides have closed it, one fails, or it is cut.
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
        // Without nodelay the proxy would delay small packets like a slow network.
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
        // The sender is also gone if the proxy was dropped.
        _ = mode.wait_for(|mode| mode.cuts > cuts) => {}
    }
}

/// Forwards the data of one direction, and its end, unless a fault drops it.
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
        let current = open.map_err(io::Error::other)?;
        if current.half_open == Some(way) {
            continue;
        }
        if !current.delay.is_zero() {
            tokio::time::sleep(current.delay).await;
        }
        filter(&mut bytes);
        to.write_all(&bytes).await?;
    }
}
