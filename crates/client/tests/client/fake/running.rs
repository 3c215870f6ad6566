//! A server of a test.

use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::server::{Router, TcpIncoming};

use super::ANY;

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Completes when the server has to stop.
pub(crate) type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Running {
    /// Serves `router` on a free port.
    pub(crate) async fn serve(router: Router) -> Self {
        Self::serve_on(ANY, router).await
    }

    pub(crate) async fn serve_on(address: SocketAddr, router: Router) -> Self {
        Self::start(address, |incoming, until| {
            router.serve_with_incoming_shutdown(incoming, until)
        })
        .await
    }

    /// Runs the server that `serve` builds for the connections to `address`.
    pub(crate) async fn start<F>(
        address: SocketAddr,
        serve: impl FnOnce(TcpIncoming, Until) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let until = Box::pin(async {
            // An error means that the test dropped the sender.
            let _ = stopped.await;
        });
        let serving = serve(TcpIncoming::from(listener), until);
        let task = tokio::spawn(async { serving.await.unwrap() });
        Self {
            address,
            stop,
            task,
        }
    }

    pub(crate) async fn stop(self) -> SocketAddr {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        self.address
    }
}
