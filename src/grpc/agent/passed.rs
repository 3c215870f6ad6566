//! Calls that are passed on to Keyward as they are: with their caller's own token, never the agent's.

use std::sync::Arc;

use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, TE};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyStream, StreamBody};
use keyward_ops::traces::propagate;
use tonic::body::Body;
use tonic::{Code, Status};

use super::super::deadline::Progress;
use super::super::gate::Kind;
use super::super::observe::{WATCH, code_of};
use super::super::peer::Peer;
use super::super::status::AgentError;
use super::{Agent, Sender};
use crate::service::ServiceError;

impl Agent {
    /// Passes on the call of another caller. Without a sender it is one that needs no token.
    pub(super) async fn pass_on(
        &self,
        mut request: Request<Body>,
        sender: Option<Sender>,
    ) -> Result<Response<Body>, Status> {
        if sender.is_none() {
            if !matches!(Kind::of(request.uri().path()), Kind::Open { .. }) {
                return Err(Status::unimplemented("there is no such method"));
            }
            // It may be the local token.
            request.headers_mut().remove(AUTHORIZATION);
        }
        let extensions = std::mem::take(request.extensions_mut());
        let peer = extensions.get::<Arc<Peer>>();
        let peer = peer.cloned().ok_or(ServiceError::Internal)?;
        if let Some(progress) = extensions.get::<Progress>() {
            // The agent cannot know what the call changes.
            progress.start_change()?;
        }
        let is_stream = sender.is_none() || request.uri().path() == WATCH;
        if sender.is_none() {
            request = request.map(|body| until_retiring(body, &peer));
        }
        request
            .headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        // A traced call stays one tree.
        propagate(request.headers_mut());
        let passed = self.client.pass_on(request).await;
        let response = passed.map_err(|unanswered| {
            self.note(&unanswered.error);
            AgentError::Unanswered(unanswered)
        })?;
        // Keyward accepts its token.
        if sender.is_some() && code_of(&response) == Code::Ok {
            peer.has_caller();
        }
        if !is_stream {
            return Ok(response);
        }
        Ok(response.map(|body| until_retiring(body, &peer)))
    }
}

/// A body that may have no end of its own, for which the end of its connection would wait.
fn until_retiring(body: Body, peer: &Arc<Peer>) -> Body {
    let peer = Arc::clone(peer);
    let retiring = async move { peer.retiring().await };
    let frames = BodyStream::new(body).take_until(Box::pin(retiring));
    Body::new(StreamBody::new(frames))
}
