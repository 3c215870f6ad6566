//! The TLS handshakes of one serving thread. Each runs in its own task, so that a slow one delays
//! neither the acceptor, nor other handshakes, nor a stop. Time and number are limited: at the limit
//! the oldest pending handshake is aborted, so that idle connections cannot lock out other clients.

use std::collections::VecDeque;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::Tls;
use crate::grpc::connection::{Connection, LoadGuard, OPENING_TIMEOUT};

/// The maximum number of pending handshakes of a thread. Each uses up to about 64 KiB of memory.
const MAX_PENDING: usize = 512;

/// Performs the handshakes of `accepted` and yields the resulting connections, until `stop` or the
/// end of `accepted`.
pub(in crate::grpc) fn handshakes(
    accepted: impl Stream<Item = (TcpStream, LoadGuard)> + Send + 'static,
    tls: Tls,
    stop: CancellationToken,
) -> impl Stream<Item = Connection> {
    let (done, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        tokio::pin!(accepted);
        let mut pending = VecDeque::new();
        loop {
            let next = tokio::select! {
                next = accepted.next() => next,
                () = stop.cancelled() => None,
            };
            let Some((stream, load)) = next else {
                break;
            };
            make_room(&mut pending, &tls);
            let handshake = handshake(stream, load, tls.clone(), done.clone(), stop.clone());
            pending.push_back(tokio::spawn(handshake).abort_handle());
        }
        // The thread no longer serves new connections.
        pending.iter().for_each(AbortHandle::abort);
    });
    UnboundedReceiverStream::new(connections)
}

fn make_room(pending: &mut VecDeque<AbortHandle>, tls: &Tls) {
    pending.retain(|task| !task.is_finished());
    if pending.len() >= MAX_PENDING
        && let Some(oldest) = pending.pop_front()
    {
        oldest.abort();
        tls.metrics.displaced.inc();
    }
}

async fn handshake(
    stream: TcpStream,
    load: LoadGuard,
    tls: Tls,
    done: mpsc::UnboundedSender<Connection>,
    stop: CancellationToken,
) {
    match tokio::time::timeout(OPENING_TIMEOUT, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            tls.metrics.done.inc();
            // The receiver is gone if the thread stops; the connection is closed then.
            let _ = done.send(Connection::tls(stream, load, stop));
        }
        Ok(Err(error)) => {
            tls.metrics.failed.inc();
            tracing::debug!(%error, "a TLS handshake failed");
        }
        Err(_) => {
            tls.metrics.timed_out.inc();
        }
    }
}
