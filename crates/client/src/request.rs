//! The request of Verify.

use std::net::IpAddr;

use keyward_proto::v1;

use crate::Secret;

/// A key to verify, and the conditions.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The exact text of the key, without spaces around it and without `Bearer `.
    pub api_key: Secret,
    /// Scopes, all of which the key must have: at most 64, each 1 to 64 of
    /// `A-Z a-z 0-9 . _ : / * -`.
    pub required_scopes: Vec<String>,
    /// The address of the end user. `None` means unknown: the verdict on a key that is limited to
    /// certain addresses is then [`Verdict::IpNotAllowed`](crate::Verdict::IpNotAllowed).
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

    pub(crate) fn to_wire(&self, want_cache_entry: bool) -> v1::VerifyRequest {
        let consistency = match self.consistency {
            Consistency::Default => v1::Consistency::Default,
            Consistency::Strong => v1::Consistency::Strong,
        };
        v1::VerifyRequest {
            api_key: self.api_key.expose().to_owned(),
            required_scopes: self.required_scopes.clone(),
            client_ip: self.client_ip.map_or_else(String::new, |ip| ip.to_string()),
            consistency: consistency.into(),
            want_cache_entry,
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
