//! A server of the harness: a listener on a free port, and a thread with its own runtime.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread::JoinHandle;

/// A non-blocking listener on a free port of 127.0.0.1, and its address.
pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener
        .set_nonblocking(true)
        .expect("a listener can be non-blocking");
    let address = listener.local_addr().expect("a listener has an address");
    (listener, address)
}

/// Runs `serve` on its own thread, so that a blocking test does not block the server.
pub(crate) fn run_on_thread<F: Future<Output = ()>>(
    serve: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be created")
            .block_on(serve());
    })
}
