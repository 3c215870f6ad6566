//! Requests in a few words: a test builds on these and sets only the fields that it is about.

use keyward_proto::envoy::attribute_context::{HttpRequest, Request as Attributes};
use keyward_proto::envoy::{AttributeContext, CheckRequest, CheckResponse};
use keyward_proto::v1;
use tonic::Status;

use crate::Client;

/// A request that a [`Client`] can send.
pub trait Call {
    /// What the service answers.
    type Answer;

    /// Sends it over the connection of `client`.
    ///
    /// # Errors
    ///
    /// The service's refusal, or the failure of the connection.
    fn send(self, client: &Client) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

macro_rules! calls {
    ($($service:ident . $method:ident: $request:ident => $answer:ident;)*) => {$(
        impl Call for v1::$request {
            type Answer = v1::$answer;

            async fn send(self, client: &Client) -> Result<v1::$answer, Status> {
                Ok(client.$service.clone().$method(self).await?.into_inner())
            }
        }
    )*};
}

calls! {
    keys.issue: IssueRequest => IssueResponse;
    keys.revoke: RevokeRequest => RevokeResponse;
    keys.verify: VerifyRequest => VerifyResponse;
    keys.verify_batch: VerifyBatchRequest => VerifyBatchResponse;
    keys.get: GetRequest => GetResponse;
    keys.list: ListRequest => ListResponse;
    keys.update: UpdateRequest => UpdateResponse;
    admin.create_token: CreateTokenRequest => CreateTokenResponse;
    admin.list_tokens: ListTokensRequest => ListTokensResponse;
    admin.revoke_token: RevokeTokenRequest => RevokeTokenResponse;
    admin.import_keys: ImportKeysRequest => ImportKeysResponse;
    admin.undo_import: UndoImportRequest => UndoImportResponse;
    admin.export_keys: ExportKeysRequest => ExportKeysResponse;
    admin.get_keyring_status: GetKeyringStatusRequest => GetKeyringStatusResponse;
    admin.activate_keyring_key: ActivateKeyringKeyRequest => ActivateKeyringKeyResponse;
    admin.retire_keyring_key: RetireKeyringKeyRequest => RetireKeyringKeyResponse;
    admin.erase_account: EraseAccountRequest => EraseAccountResponse;
    admin.list_audit_events: ListAuditEventsRequest => ListAuditEventsResponse;
    admin.verify_audit: VerifyAuditRequest => VerifyAuditResponse;
    admin.list_webhooks: ListWebhooksRequest => ListWebhooksResponse;
    admin.test_webhook: TestWebhookRequest => TestWebhookResponse;
    admin.replay_webhook: ReplayWebhookRequest => ReplayWebhookResponse;
}

impl Call for CheckRequest {
    type Answer = CheckResponse;

    async fn send(self, client: &Client) -> Result<CheckResponse, Status> {
        Ok(client.envoy.clone().check(self).await?.into_inner())
    }
}

/// What Envoy asks about an HTTP request with a key.
pub fn checking(api_key: &str) -> CheckRequest {
    let http = HttpRequest {
        headers: [("x-api-key".to_owned(), api_key.to_owned())].into(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Attributes { http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}

/// Tests a webhook.
pub fn testing(name: &str) -> v1::TestWebhookRequest {
    let name = name.to_owned();
    v1::TestWebhookRequest { name }
}

/// Replays the dead events of a webhook.
pub fn replaying(name: &str) -> v1::ReplayWebhookRequest {
    v1::ReplayWebhookRequest {
        name: name.to_owned(),
        ..Default::default()
    }
}

/// Issues the key in the slot `default` of an account.
pub fn slot(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

/// Issues a recoverable key in the slot `default` of an account.
pub fn recoverable(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        recoverable: Some(true),
        ..slot(account)
    }
}

/// Issues the key in the slot `default` of an account, for so many seconds.
pub fn living(account: &str, ttl: i64) -> v1::IssueRequest {
    v1::IssueRequest {
        ttl: seconds(ttl),
        ..slot(account)
    }
}

/// Revokes one key by its id.
pub fn by_id(key_id: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        key_id: key_id.to_owned(),
        ..Default::default()
    }
}

/// Revokes one key by its text.
pub fn by_text(api_key: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

/// Revokes all keys of an account.
pub fn by_account(account: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

/// Revokes one key by its id and makes its successor.
pub fn replacing(key_id: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        replace: true,
        ..by_id(key_id)
    }
}

/// Revokes one key by its id, after a grace of so many seconds.
pub fn with_grace(key_id: &str, grace: i64) -> v1::RevokeRequest {
    v1::RevokeRequest {
        grace: seconds(grace),
        ..by_id(key_id)
    }
}

/// Verifies a key.
pub fn verifying(api_key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

/// Verifies a key with a read of the store.
pub fn verifying_strongly(api_key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        consistency: v1::Consistency::Strong.into(),
        ..verifying(api_key)
    }
}

/// Reads one key by its id.
pub fn getting(key_id: &str) -> v1::GetRequest {
    v1::GetRequest {
        key_id: key_id.to_owned(),
        ..Default::default()
    }
}

/// Reads one key by its text.
pub fn getting_by_text(api_key: &str) -> v1::GetRequest {
    v1::GetRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

/// Lists the live keys of an account.
pub fn listing(account: &str) -> v1::ListRequest {
    v1::ListRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

/// Lists up to 1,000 keys of an account, revoked keys too.
pub fn listing_all(account: &str) -> v1::ListRequest {
    v1::ListRequest {
        include_revoked: true,
        page_size: 1_000,
        ..listing(account)
    }
}

/// Sets the fields `paths` of a key to what `key` holds.
pub fn changing<const N: usize>(key: v1::ApiKey, paths: [&str; N]) -> v1::UpdateRequest {
    let paths = paths.map(str::to_owned).into();
    v1::UpdateRequest {
        key: Some(key),
        update_mask: Some(prost_types::FieldMask { paths }),
    }
}

/// Disables one key, or enables it again.
pub fn disabling(key_id: &str, disabled: bool) -> v1::UpdateRequest {
    let key = v1::ApiKey {
        disabled,
        ..bare(key_id)
    };
    changing(key, ["disabled"])
}

/// A key with its id alone.
pub fn bare(key_id: &str) -> v1::ApiKey {
    v1::ApiKey {
        key_id: key_id.to_owned(),
        ..Default::default()
    }
}

/// Creates a token.
pub fn creating_token(name: &str, roles: &[v1::Role]) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        name: name.to_owned(),
        roles: roles.iter().map(|role| *role as i32).collect(),
        ..Default::default()
    }
}

/// Revokes a token.
pub fn revoking_token(token_id: &str) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest {
        token_id: token_id.to_owned(),
    }
}

/// A duration on the wire.
pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}
