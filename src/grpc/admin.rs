//! `AdminService`: the tokens of callers, keys that move in or out, the keyring, the erasure of accounts, the
//! audit, webhooks. Reading the audit requires the role `auditor`, all else `admin`.

use keyward_proto::v1;
use keyward_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

use super::{Api, convert, import};
use keyward_core::key::{Role, SecretText};

#[tonic::async_trait]
impl AdminService for Api {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let (caller, new) = self
            .authorize(request, Role::Admin, convert::new_token)
            .await?;
        let reply = self.service.create_token(&caller, new).await?;
        if reply.record.san.is_some() {
            self.callers.created();
        }
        Ok(Response::new(v1::CreateTokenResponse {
            caller_token: Some(convert::caller_token(&reply.record)),
            token: reply
                .secret
                .map(SecretText::into_exposed)
                .unwrap_or_default(),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let (_, (include_revoked, query)) = self
            .authorize_read(request, Role::Admin, convert::list_tokens)
            .await?;
        let page = self.service.list_tokens(include_revoked, query).await?;
        Ok(Response::new(v1::ListTokensResponse {
            caller_tokens: page.items.iter().map(convert::caller_token).collect(),
            next_page_token: page.next,
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let (caller, id) = self
            .authorize(request, Role::Admin, convert::token_id)
            .await?;
        let (record, receipt) = self.service.revoke_token(&caller, id).await?;
        Ok(Response::new(v1::RevokeTokenResponse {
            revision: record.revision,
            caller_token: Some(convert::caller_token(&record)),
            confirmed_instances: receipt.confirmed,
            waited_out_instances: receipt.waited_out,
        }))
    }

    async fn import_keys(
        &self,
        request: Request<v1::ImportKeysRequest>,
    ) -> Result<Response<v1::ImportKeysResponse>, Status> {
        let dry_run = request.get_ref().dry_run;
        let (caller, keys) = self
            .authorize(request, Role::Admin, import::import_keys)
            .await?;
        let reply = self.service.import(&caller, keys).await?;
        Ok(Response::new(import::imported(&reply, dry_run)))
    }

    async fn undo_import(
        &self,
        request: Request<v1::UndoImportRequest>,
    ) -> Result<Response<v1::UndoImportResponse>, Status> {
        let (caller, (batch, reason)) = self
            .authorize(request, Role::Admin, import::undo_import)
            .await?;
        let reply = self.service.undo_import(&caller, batch, reason).await?;
        Ok(Response::new(import::undone(&reply)))
    }

    async fn export_keys(
        &self,
        request: Request<v1::ExportKeysRequest>,
    ) -> Result<Response<v1::ExportKeysResponse>, Status> {
        let (_, (include_revoked, query)) = self
            .authorize_read(request, Role::Admin, import::export_keys)
            .await?;
        let (page, uses) = self.service.export(include_revoked, query).await?;
        Ok(Response::new(v1::ExportKeysResponse {
            keys: convert::api_keys(&page, &uses),
            next_page_token: page.next,
        }))
    }

    async fn get_keyring_status(
        &self,
        request: Request<v1::GetKeyringStatusRequest>,
    ) -> Result<Response<v1::GetKeyringStatusResponse>, Status> {
        self.authorize_read(request, Role::Admin, convert::nothing)
            .await?;
        let keys = self.service.keyring_status().await?;
        let keys = keys.into_iter().map(convert::keyring_key).collect();
        Ok(Response::new(v1::GetKeyringStatusResponse { keys }))
    }

    async fn activate_keyring_key(
        &self,
        request: Request<v1::ActivateKeyringKeyRequest>,
    ) -> Result<Response<v1::ActivateKeyringKeyResponse>, Status> {
        let (caller, name) = self
            .authorize(request, Role::Admin, convert::key_to_activate)
            .await?;
        self.service.activate_key(&caller, name).await?;
        Ok(Response::new(v1::ActivateKeyringKeyResponse {}))
    }

    async fn retire_keyring_key(
        &self,
        request: Request<v1::RetireKeyringKeyRequest>,
    ) -> Result<Response<v1::RetireKeyringKeyResponse>, Status> {
        let (caller, name) = self
            .authorize(request, Role::Admin, convert::key_to_retire)
            .await?;
        self.service.retire_key(&caller, name).await?;
        Ok(Response::new(v1::RetireKeyringKeyResponse {}))
    }

    async fn erase_account(
        &self,
        request: Request<v1::EraseAccountRequest>,
    ) -> Result<Response<v1::EraseAccountResponse>, Status> {
        let (caller, account) = self
            .authorize(request, Role::Admin, convert::account_to_erase)
            .await?;
        let reply = self.service.erase_account(&caller, account).await?;
        Ok(Response::new(v1::EraseAccountResponse {
            pseudonym: reply
                .pseudonym
                .map_or_else(String::new, |name| name.to_string()),
            revoked_count: reply.revoked,
            erased_count: reply.erased,
            revision: reply.revision,
            confirmed_instances: reply.receipt.confirmed,
            waited_out_instances: reply.receipt.waited_out,
        }))
    }

    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let (_, (query, page)) = self
            .authorize_read(request, Role::Auditor, convert::list_audit)
            .await?;
        let page = self.service.list_audit(query, page).await?;
        Ok(Response::new(convert::audit_events(&page)))
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let (_, (head, token)) = self
            .authorize_read(request, Role::Auditor, convert::verify_audit)
            .await?;
        let reply = self.service.verify_audit(head, token).await?;
        Ok(Response::new(convert::verified_audit(reply)))
    }

    async fn list_webhooks(
        &self,
        request: Request<v1::ListWebhooksRequest>,
    ) -> Result<Response<v1::ListWebhooksResponse>, Status> {
        self.authorize_read(request, Role::Admin, convert::nothing)
            .await?;
        let webhooks = self.service.list_webhooks().await?;
        let webhooks = webhooks.into_iter().map(convert::webhook).collect();
        Ok(Response::new(v1::ListWebhooksResponse { webhooks }))
    }

    async fn test_webhook(
        &self,
        request: Request<v1::TestWebhookRequest>,
    ) -> Result<Response<v1::TestWebhookResponse>, Status> {
        let (_, name) = self
            .authorize(request, Role::Admin, convert::webhook_to_test)
            .await?;
        let test = self.service.test_webhook(&name).await?;
        Ok(Response::new(convert::webhook_test(test)))
    }

    async fn replay_webhook(
        &self,
        request: Request<v1::ReplayWebhookRequest>,
    ) -> Result<Response<v1::ReplayWebhookResponse>, Status> {
        let (caller, (name, events)) = self
            .authorize(request, Role::Admin, convert::replay)
            .await?;
        let replayed_count = self.service.replay_webhook(&caller, name, events).await?;
        Ok(Response::new(v1::ReplayWebhookResponse { replayed_count }))
    }
}
