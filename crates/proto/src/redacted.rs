//! `Debug` for the messages with a secret. The output does not contain the secret.
//!
//! A message with a `debug_redact` field is generated without `Debug`. The implementations here
//! destructure it without `..`, so that a new field does not compile until it is handled.

use std::fmt::{Debug, Formatter, Result};

use crate::v1::{
    CreateTokenResponse, GetRequest, ImportKey, IssueResponse, RevokeRequest, RevokeResponse,
    VerifyRequest,
};

/// Replaces a secret: shows only whether it is empty.
struct Redacted<'a, T>(&'a T);

impl<T: AsRef<[u8]>> Debug for Redacted<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(if self.0.as_ref().is_empty() {
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
            predecessor,
        } = self;
        f.debug_struct("IssueResponse")
            .field("key", key)
            .field("api_key", &Redacted(api_key))
            .field("created", created)
            .field("predecessor", predecessor)
            .finish()
    }
}

impl Debug for ImportKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            account_id,
            name,
            api_key,
            digest,
            digest_scheme,
            scopes,
            metadata,
            expire_time,
            allowed_cidrs,
            create_time,
            recoverable,
        } = self;
        f.debug_struct("ImportKey")
            .field("account_id", account_id)
            .field("name", name)
            .field("api_key", &Redacted(api_key))
            .field("digest", &Redacted(digest))
            .field("digest_scheme", digest_scheme)
            .field("scopes", scopes)
            .field("metadata", metadata)
            .field("expire_time", expire_time)
            .field("allowed_cidrs", allowed_cidrs)
            .field("create_time", create_time)
            .field("recoverable", recoverable)
            .finish()
    }
}

impl Debug for RevokeRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            key_id,
            api_key,
            account_id,
            replace,
            grace,
            reason,
        } = self;
        f.debug_struct("RevokeRequest")
            .field("key_id", key_id)
            .field("api_key", &Redacted(api_key))
            .field("account_id", account_id)
            .field("replace", replace)
            .field("grace", grace)
            .field("reason", reason)
            .finish()
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
            want_cache_entry,
        } = self;
        f.debug_struct("VerifyRequest")
            .field("api_key", &Redacted(api_key))
            .field("required_scopes", required_scopes)
            .field("client_ip", client_ip)
            .field("consistency", consistency)
            .field("want_cache_entry", want_cache_entry)
            .finish()
    }
}

impl Debug for GetRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { key_id, api_key } = self;
        f.debug_struct("GetRequest")
            .field("key_id", key_id)
            .field("api_key", &Redacted(api_key))
            .finish()
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
        let messages: [&dyn Debug; 7] = [
            &IssueResponse {
                api_key: api_key(),
                ..Default::default()
            },
            &RevokeRequest {
                api_key: api_key(),
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
            &GetRequest {
                api_key: api_key(),
                ..Default::default()
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
        let get = GetRequest {
            key_id: "0197".to_owned(),
            ..Default::default()
        };
        let shown = format!("{get:?}");
        assert!(shown.contains(r#"key_id: "0197""#), "{shown}");
        assert!(shown.contains("api_key: [empty]"), "{shown}");
    }
}
