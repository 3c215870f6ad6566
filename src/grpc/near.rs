//! WatchInvalidations: the stream of a near-cache. It passes each poll to `replication::NearStream`, and
//! judges the stream's token at each poll.

use futures_util::{Stream, StreamExt as _, stream};
use keyward_proto::v1;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use super::peer::Peer;
use super::{Api, convert};
use crate::auth::{Caller, Denied};
use crate::service::{NearStream, ServiceError};
use keyward_core::fence::{Epoch, Now};
use keyward_core::key::{Clock, FieldError, Role};

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
        let answers = stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.answer().await {
                Ok(answer) => Some((Ok(answer), Some(watch))),
                Err(ending) => watch.end(ending).map(|status| (Err(status), None)),
            }
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
        let reason = "must come after the response to the previous poll";
        Err(Ending::fault(FieldError::new("poll", reason)))
    }

    /// Whether the token of this stream is valid, as far as this instance knows.
    async fn is_allowed(&mut self) -> bool {
        let now = Now::read(&*self.clock);
        if self.api.callers.is_still_valid(&self.caller, now) {
            return true;
        }
        let judged = self.api.judge(&self.metadata, self.peer.as_deref()).await;
        if let Ok(caller) = judged
            && caller.has(Role::NearCache)
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
