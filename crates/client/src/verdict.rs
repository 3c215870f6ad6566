//! A key to judge, and the verdict on it. Only a whole answer that says VALID becomes
//! [`Verdict::Valid`]; what this client does not know is an error.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use keyward_proto::v1;

use crate::{Error, Secret};

/// A key to judge, and for what.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The text of the key, exactly: no space around it, no `Bearer ` before it.
    pub api_key: Secret,
    /// Scopes that the key must all hold; at most 64, each 1 to 64 of `A-Z a-z 0-9 . _ : / * -`.
    pub required_scopes: Vec<String>,
    /// The address of the end user. `None` means unknown: a key that may be used only from certain
    /// addresses is then [`Verdict::IpNotAllowed`].
    pub client_ip: Option<IpAddr>,
    /// How the answer is found.
    pub consistency: Consistency,
}

impl VerifyRequest {
    /// Asks about `api_key`, for no scope and from an unknown address.
    pub fn new(api_key: Secret) -> Self {
        Self {
            api_key,
            required_scopes: Vec::new(),
            client_ip: None,
            consistency: Consistency::Default,
        }
    }

    pub(crate) fn to_wire(&self) -> v1::VerifyRequest {
        let consistency = match self.consistency {
            Consistency::Default => v1::Consistency::Default,
            Consistency::Strong => v1::Consistency::Strong,
        };
        v1::VerifyRequest {
            api_key: self.api_key.expose().to_owned(),
            required_scopes: self.required_scopes.clone(),
            client_ip: self.client_ip.map_or_else(String::new, |ip| ip.to_string()),
            consistency: consistency.into(),
        }
    }
}

/// How Keyward finds its answer. Either way a revocation that has returned is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// From memory, if that is proven to be fresh enough.
    #[default]
    Default,
    /// From the store: sees everything that was committed before the call. Slower.
    Strong,
}

/// What Keyward says about a key. If several hold, it is the first in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a key is refused unless the verdict is Valid"]
pub enum Verdict {
    /// The key lives and may do what was asked.
    Valid(Identity),
    /// It looks like a key, and there is none like it.
    NotFound,
    /// This was never a key.
    Malformed,
    /// It is revoked, for good.
    Revoked,
    /// It has expired, for good.
    Expired,
    /// It is switched off for now.
    Disabled,
    /// It lives, but lacks a required scope.
    InsufficientScope,
    /// It lives, but may not be used from this address.
    IpNotAllowed,
}

/// Whose key it is, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public name of the key, a UUID.
    pub key_id: String,
    /// Whose key it is.
    pub account_id: String,
    /// The slot of the account that the key fills.
    pub name: String,
    /// All that the key may do, sorted; not only what was required.
    pub scopes: Vec<String>,
    /// The notes that the key carries.
    pub metadata: BTreeMap<String, String>,
    /// From when on the key is expired; `None`: never.
    pub expire_time: Option<SystemTime>,
    /// The revision of the key's last change; 0: none since it was created.
    pub revision: u64,
}

impl TryFrom<v1::VerifyResponse> for Verdict {
    type Error = Error;

    /// Fails closed: a verdict that this client does not know, and a VALID that does not say for
    /// whom, are errors.
    fn try_from(answer: v1::VerifyResponse) -> Result<Self, Error> {
        Ok(match v1::Verdict::try_from(answer.verdict) {
            Ok(v1::Verdict::Valid) => Self::Valid(answer.try_into()?),
            Ok(v1::Verdict::NotFound) => Self::NotFound,
            Ok(v1::Verdict::Malformed) => Self::Malformed,
            Ok(v1::Verdict::Revoked) => Self::Revoked,
            Ok(v1::Verdict::Expired) => Self::Expired,
            Ok(v1::Verdict::Disabled) => Self::Disabled,
            Ok(v1::Verdict::InsufficientScope) => Self::InsufficientScope,
            Ok(v1::Verdict::IpNotAllowed) => Self::IpNotAllowed,
            Ok(v1::Verdict::Unspecified) | Err(_) => {
                return Err(Error::unavailable(format!(
                    "the answer holds the verdict {}, which this client does not know",
                    answer.verdict
                )));
            }
        })
    }
}

impl TryFrom<v1::VerifyResponse> for Identity {
    type Error = Error;

    fn try_from(answer: v1::VerifyResponse) -> Result<Self, Error> {
        if answer.key_id.is_empty() || answer.account_id.is_empty() {
            return Err(Error::unavailable(
                "the answer says VALID, but not for which key and account",
            ));
        }
        let expire_time = answer.expire_time.map(SystemTime::try_from).transpose();
        Ok(Self {
            key_id: answer.key_id,
            account_id: answer.account_id,
            name: answer.name,
            scopes: answer.scopes,
            metadata: answer.metadata,
            expire_time: expire_time
                .map_err(|_| Error::unavailable("the answer says VALID until no time there is"))?,
            revision: answer.revision,
        })
    }
}
