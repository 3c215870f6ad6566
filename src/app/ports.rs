//! Listens on the ports of the settings.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::StartError;
use crate::config::Listen;
use crate::grpc::Listener;

/// The listener of the gRPC service.
pub(super) async fn listener(listen: &Listen) -> Result<Listener, StartError> {
    let listener = match listen {
        Listen::Tcp(address) => Listener::tcp(*address).await,
        Listen::Unix(path) => Listener::unix(path),
    };
    listener.map_err(|error| cannot_listen("listen", listen, &error))
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

fn cannot_listen(
    setting: &str,
    address: &impl std::fmt::Display,
    error: &std::io::Error,
) -> StartError {
    StartError(format!(
        "cannot listen on {address}: {error}. Stop the process that uses this address, or set \
         `{setting}` to another address"
    ))
}
