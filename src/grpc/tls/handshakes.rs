//! Handshakes of one serving thread: each goes on by itself, so that none holds up accepting, the
//! others, or a stop. They are bounded in time and in number; when there are too many, the oldest one
//! that is not done gives way, so that silent connections cannot keep others out.

use std::collections::VecDeque;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::Tls;
use crate::grpc::connection::{Connection, Counted, PATIENCE};

/// Handshakes of a thread at a time; each holds up to about 64 KiB.
const AT_A_TIME: usize = 512;

/// Those of `accepted` that have shaken hands, until `stop` or the end of `accepted`.
pub(in crate::grpc) fn handshakes(
    accepted: impl Stream<Item = (TcpStream, Counted)> + Send + 'static,
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
            let Some((stream, counted)) = next else {
                break;
            };
            make_room(&mut pending, &tls);
            let shaking = shake(stream, counted, tls.clone(), done.clone(), stop.clone());
            pending.push_back(tokio::spawn(shaking).abort_handle());
        }
        // Nobody serves them any more.
        pending.iter().for_each(AbortHandle::abort);
    });
    UnboundedReceiverStream::new(connections)
}

fn make_room(pending: &mut VecDeque<AbortHandle>, tls: &Tls) {
    pending.retain(|task| !task.is_finished());
    if pending.len() >= AT_A_TIME
        && let Some(oldest) = pending.pop_front()
    {
        oldest.abort();
        tls.metrics.displaced.inc();
    }
}

async fn shake(
    stream: TcpStream,
    counted: Counted,
    tls: Tls,
    done: mpsc::UnboundedSender<Connection>,
    stop: CancellationToken,
) {
    match tokio::time::timeout(PATIENCE, tls.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            tls.metrics.done.inc();
            // The thread stops serving: the connection ends with it.
            let _ = done.send(Connection::tls(stream, counted, stop));
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
