//! The request and the verdict of Verify. Only a complete response with VALID becomes
//! [`Verdict::Valid`]; an unknown verdict is an error.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use keyward_proto::v1;

use crate::{Error, Secret};

/// A key to verify, and the conditions.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The exact text of the key, without spaces around it and without `Bearer `.
    pub api_key: Secret,
    /// Scopes, all of which the key must have: at most 64, each 1 to 64 of
    /// `A-Z a-z 0-9 . _ : / * -`.
    pub required_scopes: Vec<String>,
    /// The address of the end user. `None` means unknown: the verdict on a key that is limited to
    /// certain addresses is then [`Verdict::IpNotAllowed`].
    pub client_ip: Option<IpAddr>,
    /// How Keyward finds its response.
    pub consistency: Consistency,
}

impl VerifyRequest {
    /// Verifies `api_key` without a scope, for an unknown address.
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

/// How Keyward finds its response. Each way respects every revocation that has returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// From a cache, if the instance can prove that its knowledge is fresh.
    #[default]
    Default,
    /// From the store, with every change that was committed before the call. Slower.
    Strong,
}

/// Keyward's verdict on a key. If several apply, it is the first in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "refuse the key unless the verdict is Valid"]
pub enum Verdict {
    /// The key is live, and meets the conditions of the request.
    Valid(Identity),
    /// The text looks like a key, but no such key exists.
    NotFound,
    /// The text is not a key.
    Malformed,
    /// The key is revoked for good.
    Revoked,
    /// The key has expired for good.
    Expired,
    /// The key is disabled; it can be enabled again.
    Disabled,
    /// The key is live, but lacks a required scope.
    InsufficientScope,
    /// The key is live, but may not be used from this address.
    IpNotAllowed,
}

/// The account and the rights of a valid key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public name of the key, a UUID.
    pub key_id: String,
    /// The account that owns the key.
    pub account_id: String,
    /// The slot of the account that the key fills.
    pub name: String,
    /// All scopes of the key, sorted; not only the required ones.
    pub scopes: Vec<String>,
    /// The metadata of the key.
    pub metadata: BTreeMap<String, String>,
    /// The time at which the key expires; `None`: never.
    pub expire_time: Option<SystemTime>,
    /// The revision of the key's last change; 0: unchanged since its creation.
    pub revision: u64,
}

impl TryFrom<v1::VerifyResponse> for Verdict {
    type Error = Error;

    /// Fails closed: an unknown verdict, and a VALID without key or account, are errors.
    fn try_from(response: v1::VerifyResponse) -> Result<Self, Error> {
        Ok(match v1::Verdict::try_from(response.verdict) {
            Ok(v1::Verdict::Valid) => Self::Valid(response.try_into()?),
            Ok(v1::Verdict::NotFound) => Self::NotFound,
            Ok(v1::Verdict::Malformed) => Self::Malformed,
            Ok(v1::Verdict::Revoked) => Self::Revoked,
            Ok(v1::Verdict::Expired) => Self::Expired,
            Ok(v1::Verdict::Disabled) => Self::Disabled,
            Ok(v1::Verdict::InsufficientScope) => Self::InsufficientScope,
            Ok(v1::Verdict::IpNotAllowed) => Self::IpNotAllowed,
            Ok(v1::Verdict::Unspecified) | Err(_) => {
                return Err(Error::unavailable(format!(
                    "the response holds the verdict {}, which this client does not know",
                    response.verdict
                )));
            }
        })
    }
}

impl TryFrom<v1::VerifyResponse> for Identity {
    type Error = Error;

    fn try_from(response: v1::VerifyResponse) -> Result<Self, Error> {
        if response.key_id.is_empty() || response.account_id.is_empty() {
            return Err(Error::unavailable(
                "the response says VALID without a key and account",
            ));
        }
        let expire_time = response.expire_time.map(SystemTime::try_from).transpose();
        Ok(Self {
            key_id: response.key_id,
            account_id: response.account_id,
            name: response.name,
            scopes: response.scopes,
            metadata: response.metadata,
            expire_time: expire_time.map_err(|_| {
                Error::unavailable("the response says VALID with an impossible expire_time")
            })?,
            revision: response.revision,
        })
    }
}
