//! Who may ask an agent: judged on this machine, by the headers alone.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use keyward_client::Secret;
use keyward_core::key::TextForm;
use tonic::Status;

use super::super::immediate::VERIFY;
use super::super::observe::CHECK;
use super::super::peer::Peer;
use super::super::status::AgentError;
use super::verdicts::VERIFY_BATCH;
use crate::auth::{Denied, bearer};
use crate::service::ServiceError;

/// Who sends a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::grpc) enum Sender {
    /// A local program, which asks the agent for a verdict.
    Local,
    /// The holder of another token, which Keyward judges.
    Other,
}

/// The local programs that may ask.
pub struct LocalCallers {
    /// What they send. `None`: every program that can connect to the sockets may ask, and there are no ports.
    token: Option<ArcSwap<Secret>>,
}

impl LocalCallers {
    /// Programs that send `token`; without one, those that can connect.
    pub fn new(token: Option<Secret>) -> Self {
        Self {
            token: token.map(ArcSwap::from_pointee),
        }
    }

    /// Expects `token` from now on. Returns whether it is another one.
    pub fn expect(&self, token: Secret) -> bool {
        match &self.token {
            Some(expected) if **expected.load() != token => {
                expected.store(Arc::new(token));
                true
            }
            _ => false,
        }
    }

    /// Who sends a call of one of our methods with these headers.
    pub(in crate::grpc) fn judge(
        &self,
        headers: &HeaderMap,
        path: &str,
        peer: &Peer,
    ) -> Result<Sender, Status> {
        let sent = sent_token(headers).map_err(ServiceError::from)?;
        let is_local = match (sent, &self.token) {
            (None, None) => true,
            (None, Some(_)) => return Err(ServiceError::from(Denied::Missing).into()),
            (Some(text), Some(token)) => token.load().is(text),
            (Some(_), None) => false,
        };
        if !is_local {
            // Around a change of the local token, this may be the former or the next one.
            return match sent.is_some_and(TextForm::is_token) {
                true => Ok(Sender::Other),
                false => Err(ServiceError::from(Denied::Invalid(
                    "the token is neither the local one, nor in the form of a Keyward token",
                ))
                .into()),
            };
        }
        peer.has_caller();
        match [VERIFY, VERIFY_BATCH, CHECK].contains(&path) {
            true => Ok(Sender::Local),
            false => Err(AgentError::VerifiesOnly.into()),
        }
    }
}

/// The token of a call. In any other form than Keyward's, the local token would be passed on unrecognized.
fn sent_token(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Denied::Invalid(
            "the request has more than one token; send one",
        ));
    }
    let text = bearer(value.as_bytes());
    let text = text.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    text.map(Some).ok_or(Denied::Invalid(
        "the authorization metadata does not have the form `Bearer <token>`",
    ))
}
