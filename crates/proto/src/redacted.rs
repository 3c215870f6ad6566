//! `Debug` for the messages with a secret. The output does not contain the secret.
//!
//! A message with a `debug_redact` field is generated without `Debug`. The implementations here
//! destructure it without `..`, so that a new field does not compile until it is handled.

use std::fmt::{Debug, Formatter, Result};

use crate::v1::{
    CreateTokenResponse, GetRequest, IssueResponse, RevokeRequest, RevokeResponse, VerifyRequest,
    get_request, revoke_request,
};

/// Replaces a secret: shows only whether it is empty.
struct Redacted<'a>(&'a str);

impl Debug for Redacted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(if self.0.is_empty() {
            "[empty]"
        } else {
            "[redacted]"
        })
    }
}

impl Debug for IssueResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            key,
            api_key,
            created,
        } = self;
        f.debug_struct("IssueResponse")
            .field("key", key)
            .field("api_key", &Redacted(api_key))
            .field("created", created)
            .finish()
    }
}

impl Debug for RevokeRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            target,
            replace,
            grace,
            reason,
        } = self;
        f.debug_struct("RevokeRequest")
            .field("target", target)
            .field("replace", replace)
            .field("grace", grace)
            .field("reason", reason)
            .finish()
    }
}

impl Debug for revoke_request::Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::KeyId(key_id) => f.debug_tuple("KeyId").field(key_id).finish(),
            Self::ApiKey(api_key) => f.debug_tuple("ApiKey").field(&Redacted(api_key)).finish(),
            Self::AccountId(account_id) => f.debug_tuple("AccountId").field(account_id).finish(),
        }
    }
}

impl Debug for RevokeResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            revoked,
            revoked_count,
            replacement,
            api_key,
            revoke_time,
            revision,
            confirmed_instances,
            waited_out_instances,
        } = self;
        f.debug_struct("RevokeResponse")
            .field("revoked", revoked)
            .field("revoked_count", revoked_count)
            .field("replacement", replacement)
            .field("api_key", &Redacted(api_key))
            .field("revoke_time", revoke_time)
            .field("revision", revision)
            .field("confirmed_instances", confirmed_instances)
            .field("waited_out_instances", waited_out_instances)
            .finish()
    }
}

impl Debug for VerifyRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            api_key,
            required_scopes,
            client_ip,
            consistency,
        } = self;
        f.debug_struct("VerifyRequest")
            .field("api_key", &Redacted(api_key))
            .field("required_scopes", required_scopes)
            .field("client_ip", client_ip)
            .field("consistency", consistency)
            .finish()
    }
}

impl Debug for GetRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { target } = self;
        f.debug_struct("GetRequest")
            .field("target", target)
            .finish()
    }
}

impl Debug for get_request::Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::KeyId(key_id) => f.debug_tuple("KeyId").field(key_id).finish(),
            Self::ApiKey(api_key) => f.debug_tuple("ApiKey").field(&Redacted(api_key)).finish(),
        }
    }
}

impl Debug for CreateTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            caller_token,
            token,
        } = self;
        f.debug_struct("CreateTokenResponse")
            .field("caller_token", caller_token)
            .field("token", &Redacted(token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::VerifyBatchRequest;

    const CANARY: &str = "kw_canary";

    #[test]
    fn secrets_are_redacted() {
        let api_key = || CANARY.to_owned();
        let verify = VerifyRequest {
            api_key: api_key(),
            ..Default::default()
        };
        let revoke = revoke_request::Target::ApiKey(api_key());
        let get = get_request::Target::ApiKey(api_key());
        let messages: [&dyn Debug; 9] = [
            &IssueResponse {
                api_key: api_key(),
                ..Default::default()
            },
            &revoke,
            &RevokeRequest {
                target: Some(revoke.clone()),
                ..Default::default()
            },
            &RevokeResponse {
                api_key: api_key(),
                ..Default::default()
            },
            &verify,
            &VerifyBatchRequest {
                requests: vec![verify.clone()],
            },
            &get,
            &GetRequest {
                target: Some(get.clone()),
            },
            &CreateTokenResponse {
                token: api_key(),
                ..Default::default()
            },
        ];
        for message in messages {
            for shown in [format!("{message:?}"), format!("{message:#?}")] {
                assert!(
                    shown.contains("[redacted]") && !shown.contains(CANARY),
                    "{shown}"
                );
            }
        }
    }

    #[test]
    fn other_fields_are_shown() {
        let target = Some(revoke_request::Target::KeyId("0197".to_owned()));
        let shown = format!(
            "{:?}",
            RevokeRequest {
                target,
                ..Default::default()
            }
        );
        assert!(shown.contains(r#"KeyId("0197")"#), "{shown}");
        let shown = format!("{:?}", VerifyRequest::default());
        assert!(shown.contains("api_key: [empty]"), "{shown}");
    }
}
