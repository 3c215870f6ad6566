//! Ports for servers that must find theirs free again when they come back.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports to draw from: below those that connections get, so that the port of a server that is down
/// is still free when it comes back.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port that is free now.
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
