//! The bodies of requests and responses, counted in the budget of their connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::peer::{CallGuard, LimitError, Peer, Reservation};
use super::{MAX_REQUEST, status};

/// The time limit for the body of a request, once it makes its handler wait.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of the prefix of a gRPC message: a flag for compression, and the length.
pub(super) const PREFIX: usize = 5;

/// The body of a request. What its handler has read counts until the handler drops the body.
pub struct RequestBody {
    inner: Body,
    /// Read, but not yet handed to the handler.
    ready: VecDeque<Frame<Bytes>>,
    read: Reservation,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// `read` is an empty reservation.
    pub(super) fn new(inner: Body, read: Reservation) -> Self {
        Self {
            inner,
            ready: VecDeque::new(),
            read,
            deadline: None,
        }
    }

    /// Waits for the first bytes, and returns the length of the message that they announce. It is
    /// unknown (`None`) if the message is compressed, or if its prefix arrives in pieces.
    pub(super) async fn announced(&mut self) -> Result<Option<usize>, Status> {
        self.read_more().await?;
        let Some(data) = self.ready.front().and_then(Frame::data_ref) else {
            // The handler refuses a request without a message.
            return Ok(Some(0));
        };
        Ok(match data.first_chunk::<PREFIX>() {
            Some([0, a, b, c, d]) => usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok(),
            _ => None,
        })
    }

    /// Reads the rest of the message, or more than a message may have. A call that waits for its turn
    /// with an unread message fills the window of its connection, and so stops the calls before it.
    pub(super) async fn complete(&mut self) -> Result<(), Status> {
        let mut bytes: usize = self.ready.iter().map(length).sum();
        while bytes <= PREFIX + MAX_REQUEST
            && let Some(more) = self.read_more().await?
        {
            bytes += more;
        }
        Ok(())
    }

    /// Reads the whole body, without the framing of gRPC.
    ///
    /// # Errors
    ///
    /// It is broken, larger than a request may be, does not arrive in time, or is over the limits of its
    /// connection.
    pub async fn whole(&mut self) -> Result<Bytes, Status> {
        if self.inner.size_hint().lower() > MAX_REQUEST as u64 {
            return Err(status::too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(frame) = poll_fn(|cx| self.poll_inner(cx)).await.transpose()? {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if whole.len() + data.len() > MAX_REQUEST {
                return Err(status::too_large());
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Reads one frame. Returns its length, or `None` at the end.
    async fn read_more(&mut self) -> Result<Option<usize>, Status> {
        let frame = poll_fn(|cx| self.poll_inner(cx)).await.transpose()?;
        let bytes = frame.as_ref().map(length);
        self.ready.extend(frame);
        Ok(bytes)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let new = || Box::pin(tokio::time::sleep(REQUEST_TIMEOUT));
            ready!(self.deadline.get_or_insert_with(new).as_mut().poll(cx));
            return Poll::Ready(Some(Err(LimitError::Unfinished.into())));
        };
        let counted = frame.map(|frame| {
            let frame = frame?;
            self.read.grow(length(&frame))?;
            Ok(frame)
        });
        Poll::Ready(counted)
    }
}

/// The bytes of data in a frame.
fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.ready.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_inner(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.inner.is_end_stream()
    }
}

/// The body of a response. Its bytes count until they are sent, not only until HTTP/2 takes them.
pub(super) struct ResponseBody {
    inner: Body,
    first: Option<Frame<Bytes>>,
    peer: Arc<Peer>,
    /// Whether the response may be refused. That of a change may not: the change is made.
    is_optional: bool,
    is_refused: bool,
    /// The call is open until the body is dropped.
    _open: Vec<CallGuard>,
}

impl ResponseBody {
    pub(super) fn new(
        inner: Body,
        peer: Arc<Peer>,
        is_optional: bool,
        open: Vec<CallGuard>,
    ) -> Self {
        Self {
            inner,
            first: None,
            peer,
            is_optional,
            is_refused: false,
            _open: open,
        }
    }

    /// Encodes and counts the message of a unary call at once. HTTP/2 asks for it only when the
    /// client lets it send; an uncounted message would wait until then.
    pub(super) async fn encode(&mut self) -> Result<(), Status> {
        if let Some(frame) = poll_fn(|cx| Pin::new(&mut self.inner).poll_frame(cx)).await {
            self.first = Some(self.count(frame?)?);
        }
        Ok(())
    }

    /// Counts the data of a frame until HTTP/2 has sent and dropped it.
    fn count(&self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, LimitError> {
        match frame.into_data() {
            Ok(data) => {
                let (data, granted) = self.peer.counted(data);
                if self.is_optional {
                    granted?;
                }
                Ok(Frame::data(data))
            }
            Err(trailers) => Ok(trailers),
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.is_refused {
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = self.count(frame?).or_else(|error| {
            // The headers are sent already, so the status goes into the trailers.
            self.is_refused = true;
            let mut trailers = HeaderMap::new();
            Status::from(error).add_header(&mut trailers)?;
            Ok(Frame::trailers(trailers))
        });
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.is_refused || self.inner.is_end_stream())
    }
}
