//! A near-cache by hand: what it sends, what it is told, and until when it is fresh.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::Frame;
use http_body_util::BodyExt as _;
use keyward_proto::v1;
use keyward_testkit::now;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::{Code, Status};

use super::{Change, Extra, Known, Number, PATIENCE};
use crate::world::{FRAME, NEAR_MAX_STALENESS, as_outside, frame};

/// The requests of a stream.
pub(super) struct Frames(pub(super) mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.0.poll_recv(context);
        bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Takes the responses as they come, as a connection does, until nobody wants them.
async fn carry(mut body: Body, frames: mpsc::UnboundedSender<Result<Frame<Bytes>, Status>>) {
    loop {
        tokio::select! {
            () = frames.closed() => return,
            frame = body.frame() => match frame {
                // Nobody may want it.
                Some(frame) => drop(frames.send(frame)),
                None => return,
            },
        }
    }
}

/// What a response made fresh.
struct Fresh {
    epoch: v1::Epoch,
    applied: u64,
    until: Instant,
}

/// A poll without a response.
struct Open {
    poll: v1::WatchInvalidationsRequest,
    sent_at: Instant,
    /// Whether it ends the stream.
    is_last: bool,
}

/// A near-cache by hand.
pub(super) struct Stream {
    /// `None` after their end.
    pub(super) requests: Option<mpsc::UnboundedSender<Bytes>>,
    /// `None` after their end.
    responses: Option<mpsc::UnboundedReceiver<Result<Frame<Bytes>, Status>>>,
    received: Vec<u8>,
    /// The polls without a response.
    open: VecDeque<Open>,
    last: u64,
    answered: Option<(v1::Epoch, u64)>,
    /// What it has acknowledged, and when.
    acknowledged: Vec<(v1::Epoch, u64, Instant)>,
    fresh: Vec<Fresh>,
    /// Whether it was told to be off.
    is_asked: bool,
    /// Whether it has said that it is off. It takes nothing more.
    is_off: bool,
    /// Whether it has sent bytes that may be any poll.
    pub(super) is_raw: bool,
}

impl Stream {
    pub(super) fn new(requests: mpsc::UnboundedSender<Bytes>, responses: Body) -> Self {
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(carry(responses, sender));
        Self {
            requests: Some(requests),
            responses: Some(frames),
            received: Vec::new(),
            open: VecDeque::new(),
            last: 0,
            answered: None,
            acknowledged: Vec::new(),
            fresh: Vec::new(),
            is_asked: false,
            is_off: false,
            is_raw: false,
        }
    }

    pub(super) fn send(&self, bytes: Bytes) {
        // The stream may have ended.
        let _ = self.requests.as_ref().map(|requests| requests.send(bytes));
    }

    pub(super) fn end(&mut self) {
        (self.requests, self.responses) = (None, None);
    }

    pub(super) fn poll(&mut self, number: Number, known: Known, extra: Extra) {
        let (epoch, applied) = self.answered.unwrap_or_default();
        let elsewhere = v1::Epoch {
            timeline: epoch.timeline ^ 77,
            ..epoch
        };
        let (epoch, applied) = match known {
            Known::Response => (self.answered.map(|(epoch, _)| epoch), applied),
            Known::Nothing => (None, 0),
            Known::Zero => (Some(epoch), 0),
            Known::Below => (Some(epoch), applied.saturating_sub(1)),
            Known::Above => (Some(epoch), applied + 1),
            Known::Highest => (Some(epoch), u64::MAX),
            Known::Elsewhere => (Some(elsewhere), applied),
            Known::HighestElsewhere => (Some(elsewhere), u64::MAX),
        };
        let used = match extra {
            Extra::Used => vec![vec![7; 16], vec![8; 16]],
            Extra::ShortId => vec![vec![7; 15]],
            Extra::ManyUsed => vec![vec![7; 16]; 1_001],
            _ => Vec::new(),
        };
        let poll = v1::WatchInvalidationsRequest {
            poll: match number {
                Number::Next => self.last.saturating_add(1),
                Number::Same => self.last,
                Number::Zero => 0,
                Number::Highest => u64::MAX,
            },
            epoch,
            applied,
            off: extra == Extra::Off,
            used,
        };
        let is_acknowledged = |(known, up_to)| poll.epoch == Some(known) && poll.applied >= up_to;
        let is_last = self.is_asked
            || poll.off
            || poll.poll <= self.last
            || matches!(extra, Extra::ShortId | Extra::ManyUsed | Extra::Large)
            || !self.answered.is_none_or(is_acknowledged);
        self.last = poll.poll;
        let mut message = poll.encode_to_vec();
        if extra == Extra::Unknown {
            message.extend_from_slice(b"\xfa\x07\x03abc\x80\x08\x01");
        }
        let now = now();
        match extra {
            Extra::Large => self.send(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff])),
            _ => self.send(frame(&message)),
        }
        if poll.off {
            self.is_off = true;
            self.fresh
                .iter_mut()
                .for_each(|fresh| fresh.until = fresh.until.min(now));
        }
        let acknowledged = poll.epoch.map(|epoch| (epoch, applied, now));
        self.acknowledged.extend(acknowledged);
        self.open.push_back(Open {
            poll,
            sent_at: now,
            is_last,
        });
    }

    /// Takes responses until no poll is without one, or the stream ends.
    pub(super) async fn responses(&mut self, changes: &Mutex<Vec<Change>>) -> Result<(), Status> {
        while !self.open.is_empty() {
            match self.next().await {
                Ok(Some(response)) if self.is_raw => drop(response),
                Ok(Some(response)) => self.take(&response, &changes.lock()),
                ended => {
                    self.end();
                    return ended.map(drop);
                }
            }
        }
        Ok(())
    }

    /// The next response; `None` if there are no more.
    async fn next(&mut self) -> Result<Option<v1::WatchInvalidationsResponse>, Status> {
        let Some(responses) = &mut self.responses else {
            return Ok(None);
        };
        loop {
            let length = self.received.first_chunk::<FRAME>();
            let length = length.map(|[_, length @ ..]| u32::from_be_bytes(*length) as usize);
            let end = length.map(|length| FRAME + length);
            if let Some(end) = end.filter(|end| *end <= self.received.len()) {
                let message: Vec<u8> = self.received.drain(..end).skip(FRAME).collect();
                return Ok(Some(Message::decode(&*message).expect("a response")));
            }
            let next = tokio::time::timeout(PATIENCE, responses.recv()).await;
            let Some(next) = next.expect("a poll is answered, or its stream ends") else {
                return Ok(None);
            };
            match next.map_err(as_outside)?.into_data() {
                Ok(data) => self.received.extend_from_slice(&data),
                Err(last) => {
                    let status = last.trailers_ref().and_then(Status::from_header_map);
                    let fault = status.filter(|status| status.code() != Code::Ok);
                    return fault.map_or(Ok(None), |status| Err(as_outside(status)));
                }
            }
        }
    }

    fn take(&mut self, response: &v1::WatchInvalidationsResponse, changes: &[Change]) {
        let open = self.open.pop_front().expect("an answer to a poll");
        let (poll, sent_at) = (open.poll, open.sent_at);
        assert!(!open.is_last, "a wrong poll is answered: {poll:?}");
        assert_eq!(response.poll, poll.poll, "in the order of the polls");
        let told = &response.invalidations;
        if response.off {
            let is_bare = told.is_empty() && response.fresh_for.is_none();
            assert!(is_bare, "`off` comes alone: {response:?}");
            self.is_asked = true;
            return;
        }
        let is_late = |change: &Change| change.is_of_token && change.at < sent_at;
        assert!(!changes.iter().any(is_late), "its token was revoked");
        let epoch = response.epoch.expect("an epoch");
        let fresh_for = response.fresh_for.expect("otherwise it is `off`");
        let fresh_for = Duration::try_from(fresh_for).expect("it is positive");
        assert!(fresh_for <= NEAR_MAX_STALENESS, "{fresh_for:?}");
        assert!(told.len() <= keyward_core::fence::MAX_CHANGES);
        let is_sound =
            |told: &v1::Invalidation| told.id.len() == 16 && told.revision <= response.applied;
        assert!(told.iter().all(is_sound), "{response:?}");
        if !response.reset {
            assert_eq!(poll.epoch, Some(epoch), "what it knew is of another log");
            let new = poll.applied.saturating_add(1)..=response.applied;
            for change in changes
                .iter()
                .filter(|change| new.contains(&change.revision))
            {
                let is_told = |told: &v1::Invalidation| {
                    told.id == change.id.as_bytes() && told.revision >= change.revision
                };
                assert!(
                    told.iter().any(is_told),
                    "revision {} is not told",
                    change.revision
                );
            }
        }
        self.answered = Some((epoch, response.applied));
        if !self.is_off {
            self.fresh.push(Fresh {
                epoch,
                applied: response.applied,
                until: sent_at + fresh_for,
            });
        }
    }

    /// A change has returned: this near-cache is not fresh by a response from before the change, unless it has
    /// said that it knows the change.
    pub(super) fn judge(&self, change: &Change) {
        let outdated = |fresh: &&Fresh| fresh.applied < change.revision && fresh.until > change.at;
        for fresh in self.fresh.iter().filter(outdated) {
            let is_known = |(epoch, applied, at): &(v1::Epoch, u64, Instant)| {
                *epoch == fresh.epoch && *applied >= change.revision && *at <= change.at
            };
            assert!(
                self.acknowledged.iter().any(is_known),
                "fresh at {} for {:?} more, although revision {} holds",
                fresh.applied,
                fresh.until - change.at,
                change.revision
            );
        }
    }
}
