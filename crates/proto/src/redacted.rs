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

/// Implements `Debug` for messages. Of a field that is marked `secret` it shows only whether it is empty.
macro_rules! redacted {
    ($($message:ident { $($field:ident $($secret:ident)?,)* })*) => {
        $(impl Debug for $message {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                let Self { $($field),* } = self;
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), redacted!(@shown $field $($secret)?)))*
                    .finish()
            }
        })*
    };
    (@shown $field:ident) => { $field };
    (@shown $field:ident secret) => { &Redacted($field) };
}

redacted! {
    IssueResponse {
        key, api_key secret, created, predecessor,
    }
    ImportKey {
        account_id, name, api_key secret, digest secret, digest_scheme, scopes, metadata,
        expire_time, allowed_cidrs, create_time, recoverable,
    }
    RevokeRequest {
        key_id, api_key secret, account_id, replace, grace, reason,
    }
    RevokeResponse {
        revoked, revoked_count, replacement, api_key secret, revoke_time, revision,
        confirmed_instances, waited_out_instances,
    }
    VerifyRequest {
        api_key secret, required_scopes, client_ip, consistency, want_cache_entry,
    }
    GetRequest {
        key_id, api_key secret,
    }
    CreateTokenResponse {
        caller_token, token secret,
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
        let messages: [&dyn Debug; 8] = [
            &IssueResponse {
                api_key: api_key(),
                ..Default::default()
            },
            &ImportKey {
                api_key: api_key(),
                digest: api_key().into(),
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
