//! WatchInvalidations: the stream of a near-cache. It passes each poll to `replication::NearStream`, and
//! judges the stream's token at each poll.

use futures_util::{Stream, StreamExt as _};
use keyward_proto::v1;
use prost::Message as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};
use tracing::Instrument as _;

use super::peer::{Peer, Unsent};
use super::{Api, convert};
use crate::auth::{Caller, Denied};
use crate::service::{NearStream, ServiceError, require_roles};
use keyward_core::fence::{Epoch, Now};
use keyward_core::key::{Clock, FieldError};

/// The answers of a stream.
pub(super) type Answers =
    Pin<Box<dyn Stream<Item = Result<v1::WatchInvalidationsResponse, Status>> + Send>>;

/// How long a near-cache that is asked to be off may take.
const OFF_LIMIT: Duration = Duration::from_secs(1);

/// Why a stream ends.
enum Ending {
    /// The near-cache is off.
    Off,
    /// The near-cache or its connection has gone.
    Gone,
    /// The near-cache did something wrong.
    Fault(Status),
}

impl Ending {
    fn fault(error: impl Into<ServiceError>) -> Self {
        Self::Fault(error.into().into())
    }

    /// The near-cache polls without the answer before.
    fn early() -> Self {
        let reason = "must come after the response to the previous poll";
        Self::fault(FieldError::new("poll", reason))
    }
}

/// An answer that its near-cache has not asked for yet.
struct Queued {
    answer: Result<v1::WatchInvalidationsResponse, Status>,
    _unsent: Option<Unsent>,
}

/// One near-cache's stream.
struct Watch {
    api: Api,
    clock: Arc<dyn Clock>,
    stream: NearStream,
    polls: Streaming<v1::WatchInvalidationsRequest>,
    metadata: MetadataMap,
    caller: Caller,
    peer: Option<Arc<Peer>>,
    last: u64,
    /// Whether the near-cache was asked to be off.
    is_asked: bool,
}

impl Api {
    /// Opens the stream of a near-cache.
    pub(super) async fn watch(
        &self,
        mut request: Request<Streaming<v1::WatchInvalidationsRequest>>,
    ) -> Result<Answers, Status> {
        let extensions = request.extensions_mut();
        let (judged, peer) = (
            extensions.remove::<Caller>(),
            extensions.remove::<Arc<Peer>>(),
        );
        let (metadata, _, polls) = request.into_parts();
        let caller = match judged {
            Some(caller) => caller,
            // The request did not pass the gate.
            None => self
                .judge(&metadata, peer.as_deref())
                .await
                .map_err(ServiceError::from)?,
        };
        let stream = self.service.watch(&caller).await?;
        let watch = Watch {
            api: self.clone(),
            clock: Arc::clone(&self.service.clock),
            stream,
            polls,
            metadata,
            caller,
            peer,
            last: 0,
            is_asked: false,
        };
        let (sender, receiver) = mpsc::channel(1);
        let serving = AbortOnDropHandle::new(tokio::spawn(watch.serve(sender).in_current_span()));
        let answers = ReceiverStream::new(receiver).map(move |Queued { answer, .. }| {
            // The stream ends when its near-cache has gone.
            let _ = &serving;
            answer
        });
        Ok(answers.boxed())
    }

    async fn judge(&self, metadata: &MetadataMap, peer: Option<&Peer>) -> Result<Caller, Denied> {
        let values = metadata.get_all("authorization").into_iter();
        let values = values.map(|value| value.as_encoded_bytes());
        let certificate = peer.and_then(|peer| peer.identity().certificate());
        self.callers.authenticate(values, certificate).await
    }
}

impl Watch {
    /// Answers polls until the stream ends. HTTP/2 asks for an answer only when the near-cache lets it send, so
    /// this is a task of its own: one that does not read ends as one that is silent.
    async fn serve(mut self, answers: mpsc::Sender<Queued>) {
        let ending = loop {
            let answer = self.answer().await;
            let queued = answer.and_then(|answer| self.queue(answer));
            // There is no place while the answer before is not read.
            let early = |_| Ending::early();
            let sent = queued.and_then(|queued| answers.try_send(queued).map_err(early));
            if let Err(ending) = sent {
                break ending;
            }
        };
        if let Some(status) = self.end(ending) {
            let last = Queued {
                answer: Err(status),
                _unsent: None,
            };
            // Otherwise there is nobody to tell it.
            let _ = answers.send(last).await;
        }
    }

    /// An answer that counts among the bytes of its connection until it is read.
    fn queue(&self, answer: v1::WatchInvalidationsResponse) -> Result<Queued, Ending> {
        let counted = |peer: &Arc<Peer>| peer.reserve_response(answer.encoded_len());
        let (unsent, granted) = self.peer.as_ref().map(counted).unzip();
        granted
            .unwrap_or(Ok(()))
            .map_err(|limit| Ending::Fault(limit.into()))?;
        Ok(Queued {
            answer: Ok(answer),
            _unsent: unsent,
        })
    }

    /// Waits for the next poll, and answers it.
    async fn answer(&mut self) -> Result<v1::WatchInvalidationsResponse, Ending> {
        let poll = self.next_poll().await?;
        let known = match poll.epoch {
            Some(epoch) => (convert::epoch(epoch), poll.applied),
            None => (Epoch::NONE, 0),
        };
        self.stream.poll(known).map_err(Ending::fault)?;
        let must_end = self.wait(known.1).await?;
        let answer = self.stream.answer(known);
        // The token is judged after `applied` was read: while it lives, its revocation is above that. So a
        // near-cache never acknowledges the revocation of its own token.
        let is_allowed = !must_end && self.is_allowed().await;
        match answer.filter(|_| is_allowed) {
            Some(answer) => Ok(convert::near_answer(poll.poll, &answer)),
            None => {
                self.is_asked = true;
                Ok(v1::WatchInvalidationsResponse {
                    poll: poll.poll,
                    off: true,
                    ..Default::default()
                })
            }
        }
    }

    /// The next poll, in order.
    async fn next_poll(&mut self) -> Result<v1::WatchInvalidationsRequest, Ending> {
        // A stop does not wait for a near-cache that is silent.
        let (stream, is_asked) = (&self.stream, self.is_asked);
        let silent = async {
            if !is_asked {
                stream.leaving().await;
            }
            tokio::time::sleep(OFF_LIMIT).await;
        };
        let poll = tokio::select! {
            biased;
            poll = self.polls.message() => poll,
            () = tokio::time::sleep(stream.lease()) => return Err(Ending::Gone),
            () = silent => return Err(Ending::Gone),
        };
        let poll = self.read(poll)?;
        if self.is_asked {
            let reason = "must be true after a response with `off`";
            return Err(Ending::fault(FieldError::new("off", reason)));
        }
        if poll.poll <= self.last {
            let reason = format!("is {}, and must be above {}", poll.poll, self.last);
            return Err(Ending::fault(FieldError::new("poll", reason)));
        }
        self.last = poll.poll;
        Ok(poll)
    }

    /// What the near-cache sent, unless it is off or has gone.
    fn read(
        &self,
        sent: Result<Option<v1::WatchInvalidationsRequest>, Status>,
    ) -> Result<v1::WatchInvalidationsRequest, Ending> {
        let Ok(Some(poll)) = sent else {
            return Err(Ending::Gone);
        };
        let used = convert::used(&poll.used).map_err(Ending::fault)?;
        self.api.service.note_uses(&used);
        match poll.off {
            true => Err(Ending::Off),
            false => Ok(poll),
        }
    }

    /// Waits until there is something to tell. Returns whether the instance or the connection is about to end.
    async fn wait(&mut self, applied: u64) -> Result<bool, Ending> {
        let retiring = async {
            match &self.peer {
                Some(peer) => peer.retiring().await,
                None => std::future::pending().await,
            }
        };
        let early = tokio::select! {
            biased;
            () = retiring => return Ok(true),
            early = self.polls.message() => early,
            () = self.stream.news(applied) => return Ok(self.stream.is_leaving()),
        };
        self.read(early)?;
        Err(Ending::early())
    }

    /// Whether the token of this stream is valid, as far as this instance knows.
    async fn is_allowed(&mut self) -> bool {
        let now = Now::read(&*self.clock);
        if self.api.callers.is_still_valid(&self.caller, now) {
            return true;
        }
        let judged = self.api.judge(&self.metadata, self.peer.as_deref()).await;
        if let Ok(caller) = judged
            && require_roles(&caller).is_ok()
        {
            self.caller = caller;
            return true;
        }
        false
    }

    fn end(self, ending: Ending) -> Option<Status> {
        match ending {
            Ending::Off => {
                self.stream.off();
                None
            }
            Ending::Gone => None,
            Ending::Fault(status) => Some(status),
        }
    }
}
