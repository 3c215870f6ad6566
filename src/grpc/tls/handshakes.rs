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
use crate::grpc::connection::{Accepted, Connection, OPENING_TIMEOUT, Transport};
use keyward_ops::Tasks;

/// The maximum number of pending handshakes of a thread. Each uses up to about 64 KiB of memory.
const MAX_PENDING: usize = 512;

/// Performs the handshakes of `connections` and yields the resulting connections, until `stop` or the
/// end of `connections`.
pub(in crate::grpc) fn handshakes(
    connections: impl Stream<Item = (Transport, Accepted)> + Send + 'static,
    tls: Tls,
    tasks: &Tasks,
    stop: CancellationToken,
) -> impl Stream<Item = Connection> {
    let (done, secured) = mpsc::unbounded_channel();
    tasks.spawn("handshakes", async move {
        tokio::pin!(connections);
        let mut pending = VecDeque::new();
        while let Some(Some((transport, accepted))) =
            stop.run_until_cancelled(connections.next()).await
        {
            let stream = match transport {
                Transport::Plain(stream) => stream,
                // No network carries a Unix socket.
                transport => {
                    let _ = done.send(Connection::new(transport, accepted, stop.clone()));
                    continue;
                }
            };
            make_room(&mut pending, &tls);
            let handshake = handshake(stream, accepted, tls.clone(), done.clone(), stop.clone());
            pending.push_back(tokio::spawn(handshake).abort_handle());
        }
        // The thread no longer serves new connections.
        pending.iter().for_each(AbortHandle::abort);
    });
    UnboundedReceiverStream::new(secured)
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
    accepted: Accepted,
    tls: Tls,
    done: mpsc::UnboundedSender<Connection>,
    stop: CancellationToken,
) {
    let accepting = tokio::time::timeout(OPENING_TIMEOUT, tls.accept(stream, &accepted.door));
    let result = tokio::select! {
        result = accepting => result,
        () = accepted.peer.displaced() => return,
    };
    match result {
        Ok(Ok((stream, certificate))) => {
            tls.metrics.done.inc();
            if let Some(certificate) = certificate {
                accepted.peer.identity().has_certificate(certificate);
            }
            // The receiver is gone if the thread stops; the connection is closed then.
            let _ = done.send(Connection::new(
                Transport::Tls(Box::new(stream)),
                accepted,
                stop,
            ));
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
