//! The unary calls of both services: for each request message the response, the stub that sends it,
//! and whether the call may be repeated.

use std::future::Future;

use keyward_proto::v1;
use keyward_proto::v1::admin_service_client::AdminServiceClient;
use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tonic::{Response, Status};

use crate::call::Transport;

/// The largest response that is accepted: a page of 1,000 keys with all their metadata.
const MAX_RESPONSE: usize = 16 << 20;

/// Decides whether a failed call may be repeated, and which time limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing, so any endpoint may answer.
    Read,
    /// Changes something; a repetition changes nothing more.
    Change,
    /// Changes something with every repetition, so the call is repeated only if it was never sent.
    Once,
}

/// A request message of Keyward's API, as [`Client::call`](crate::Client::call) takes it: every
/// request of `ApiKeyService` and `AdminService` in [`v1`].
pub trait Rpc: sealed::Sealed + Clone + Send + Sync {
    /// The message that answers the request.
    type Response: Send;

    #[doc(hidden)]
    const KIND: Kind;

    /// The full name of the method.
    #[doc(hidden)]
    fn method() -> String;

    #[doc(hidden)]
    fn send(
        self,
        transport: Transport,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
}

mod sealed {
    /// Outside this crate nobody can name it, and so nobody can implement `Rpc`.
    pub trait Sealed {}
}

macro_rules! rpcs {
    ($($client:ident.$method:ident($request:ident) -> $response:ident, $kind:ident;)+) => {$(
        impl sealed::Sealed for v1::$request {}

        impl Rpc for v1::$request {
            type Response = v1::$response;
            const KIND: Kind = Kind::$kind;

            fn method() -> String {
                let service = stringify!($client).trim_end_matches("Client");
                let method = stringify!($request).trim_end_matches("Request");
                format!("keyward.v1.{service}/{method}")
            }

            async fn send(self, transport: Transport) -> Result<Response<v1::$response>, Status> {
                let client = $client::new(transport);
                client.max_decoding_message_size(MAX_RESPONSE).$method(self).await
            }
        }
    )+};
}

rpcs! {
    ApiKeyServiceClient.issue(IssueRequest) -> IssueResponse, Change;
    ApiKeyServiceClient.revoke(RevokeRequest) -> RevokeResponse, Change;
    ApiKeyServiceClient.verify(VerifyRequest) -> VerifyResponse, Read;
    ApiKeyServiceClient.verify_batch(VerifyBatchRequest) -> VerifyBatchResponse, Read;
    ApiKeyServiceClient.get(GetRequest) -> GetResponse, Read;
    ApiKeyServiceClient.list(ListRequest) -> ListResponse, Read;
    ApiKeyServiceClient.update(UpdateRequest) -> UpdateResponse, Change;
    AdminServiceClient.create_token(CreateTokenRequest) -> CreateTokenResponse, Once;
    AdminServiceClient.list_tokens(ListTokensRequest) -> ListTokensResponse, Read;
    AdminServiceClient.revoke_token(RevokeTokenRequest) -> RevokeTokenResponse, Change;
    AdminServiceClient.import_keys(ImportKeysRequest) -> ImportKeysResponse, Change;
    AdminServiceClient.undo_import(UndoImportRequest) -> UndoImportResponse, Change;
    AdminServiceClient.export_keys(ExportKeysRequest) -> ExportKeysResponse, Read;
    AdminServiceClient.get_keyring_status(GetKeyringStatusRequest) -> GetKeyringStatusResponse, Read;
    AdminServiceClient.activate_keyring_key(ActivateKeyringKeyRequest) -> ActivateKeyringKeyResponse, Change;
    AdminServiceClient.retire_keyring_key(RetireKeyringKeyRequest) -> RetireKeyringKeyResponse, Change;
    AdminServiceClient.erase_account(EraseAccountRequest) -> EraseAccountResponse, Change;
    AdminServiceClient.list_audit_events(ListAuditEventsRequest) -> ListAuditEventsResponse, Read;
    AdminServiceClient.verify_audit(VerifyAuditRequest) -> VerifyAuditResponse, Read;
    AdminServiceClient.list_webhooks(ListWebhooksRequest) -> ListWebhooksResponse, Read;
    AdminServiceClient.test_webhook(TestWebhookRequest) -> TestWebhookResponse, Once;
    AdminServiceClient.replay_webhook(ReplayWebhookRequest) -> ReplayWebhookResponse, Change;
}
