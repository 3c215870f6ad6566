//! Listens where the settings say.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::Listen;
use crate::grpc::Listener;

/// Listens where a setting says; a socket gets this mode. Returns the listener and where it listens.
pub(super) async fn listen(
    setting: &str,
    at: &Listen,
    mode: u32,
) -> Result<(Listener, Listen), StartError> {
    let listener = match at {
        Listen::Tcp(address) => Listener::tcp(*address).await,
        Listen::Unix(path) => Listener::unix(path, mode),
    };
    let listener = listener.map_err(|error| cannot_listen(setting, at, &error))?;
    let at = match &listener {
        Listener::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
        Listener::Unix(..) => Ok(at.clone()),
    };
    Ok((listener, at?))
}

/// Listens on the address of a setting, if it has one.
pub(super) async fn bind(
    setting: &str,
    address: Option<SocketAddr>,
) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await;
    bound
        .map(Some)
        .map_err(|error| cannot_listen(setting, &address, &error))
}

fn cannot_listen(setting: &str, address: &impl fmt::Display, error: &io::Error) -> StartError {
    StartError(format!(
        "cannot listen on {address}: {error}. Stop the process that uses this address, or set \
         `{setting}` to another address"
    ))
}
