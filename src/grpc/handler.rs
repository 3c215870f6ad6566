//! What answers the calls of a server: the service in its layers, or an agent.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Layer, Service};

use super::Front;
use super::deadline::Deadline;
use super::encoding::EncodingLayer;
use super::gate::{Admission, Doorkeeper, Gate};
use super::immediate::{Answer, Immediate};
use super::observe::{Observe, Observer};
use super::peer::Peer;

/// A call in its layers.
pub(super) type BoxedCall = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// Answers calls.
pub(super) trait Handler: Send + Sync {
    /// The answer to a call whose whole message is `body`, if it needs no layers. `None` says nothing: the
    /// call must go through them.
    fn at_once(&self, call: &Parts, body: &[u8], peer: &Arc<Peer>) -> Option<Answer>;

    /// Hands a call to the layers, which are always ready.
    fn through_layers(&self, call: Request<Body>) -> BoxedCall;
}

/// A service in the layers of all calls.
pub(super) type Stacked<S> = Observe<Deadline<Gate<S>>>;

/// Puts `inner` into the layers of all calls.
pub(super) fn stacked<S>(
    inner: S,
    observer: Arc<Observer>,
    doorkeeper: Doorkeeper,
    front: &Front<'_>,
) -> Stacked<S> {
    let admission = Admission {
        doorkeeper,
        long_calls: front.long_calls.handle(),
    };
    let inner = Deadline(Gate { inner, admission });
    Observe { inner, observer }
}

/// The service.
pub(super) struct Layers {
    pub(super) stack: Stacked<<EncodingLayer as Layer<Routes>>::Service>,
    pub(super) immediate: Arc<Immediate>,
}

impl Handler for Layers {
    fn at_once(&self, call: &Parts, body: &[u8], peer: &Arc<Peer>) -> Option<Answer> {
        self.immediate.answer(call, body, peer)
    }

    fn through_layers(&self, call: Request<Body>) -> BoxedCall {
        self.stack.clone().call(call)
    }
}
