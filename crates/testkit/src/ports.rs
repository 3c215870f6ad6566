//! Ports that are still free when a stopped server starts again.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// The range of ports, below those that the system assigns to connections. So the port of a stopped
/// server stays free.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A free port.
pub(crate) fn draw_port() -> u16 {
    static DRAWN: AtomicU16 = AtomicU16::new(0);
    let seed = std::process::id().wrapping_mul(7_919);
    loop {
        let number = u32::from(DRAWN.fetch_add(1, Ordering::Relaxed));
        let offset = seed.wrapping_add(number) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("an offset within the ports");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
