//! `ApiKeyService`: authorizes each call, converts it, and passes it to the use case.

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::ApiKeyService;
use tonic::{Request, Response, Status, Streaming};

use super::convert::GetTarget;
use super::near::Answers;
use super::{Api, convert};
use crate::service::RevokeReply;
use keyward_core::key::{Role, SecretText};

#[tonic::async_trait]
impl ApiKeyService for Api {
    async fn issue(
        &self,
        request: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::IssueResponse>, Status> {
        let (caller, issue) = self
            .authorize(request, Role::Issuer, convert::issue)
            .await?;
        let reply = self.service.issue(&caller, issue).await?;
        Ok(Response::new(v1::IssueResponse {
            key: Some(convert::api_key(&reply.record, &reply.uses, reply.at)),
            predecessor: reply
                .predecessor
                .map(|record| convert::api_key(&record, &reply.uses, reply.at)),
            api_key: reply
                .secret
                .map(SecretText::into_exposed)
                .unwrap_or_default(),
            created: reply.created,
        }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        // The target decides between `issuer` and `reporter`, so the use case checks the role.
        let (caller, revoke) = self.authorize(request, None, convert::revoke).await?;
        let reply = self.service.revoke(&caller, revoke).await?;
        Ok(Response::new(reply.map(revoked).unwrap_or_default()))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        let (_, verify) = self
            .authorize_read(request, Role::Verifier, convert::verify)
            .await?;
        let verified = self.service.verify(&verify).await?;
        Ok(Response::new(convert::verified(
            &verified,
            verify.wants_entry,
        )))
    }

    async fn verify_batch(
        &self,
        request: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        let (_, batch) = self
            .authorize_read(request, Role::Verifier, convert::verify_batch)
            .await?;
        let verified = self.service.verify_batch(&batch).await?;
        let answers = verified.iter().zip(&batch);
        let responses = answers
            .map(|(verified, asked)| convert::verified(verified, asked.wants_entry))
            .collect();
        Ok(Response::new(v1::VerifyBatchResponse { responses }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let (_, target) = self
            .authorize_read(request, Role::Reader, convert::get)
            .await?;
        let reply = match target {
            GetTarget::Id(id) => self.service.get(id).await?,
            GetTarget::Text(text) => self.service.get_by_text(&text).await?,
        };
        let key = Some(convert::api_key(&reply.record, &reply.uses, reply.at));
        Ok(Response::new(v1::GetResponse { key }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let (_, (list, query)) = self
            .authorize_read(request, Role::Reader, convert::list)
            .await?;
        let (page, uses) = self.service.list(list, query).await?;
        Ok(Response::new(v1::ListResponse {
            keys: convert::api_keys(&page, &uses),
            next_page_token: page.next,
        }))
    }

    type WatchInvalidationsStream = Answers;

    async fn watch_invalidations(
        &self,
        request: Request<Streaming<v1::WatchInvalidationsRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(self.watch(request).await?))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let (caller, (id, changes)) = self
            .authorize(request, Role::Editor, convert::update)
            .await?;
        let reply = self.service.update(&caller, id, changes).await?;
        Ok(Response::new(v1::UpdateResponse {
            revision: reply.record.revision,
            key: Some(convert::api_key(&reply.record, &reply.uses, reply.at)),
            confirmed_instances: reply.receipt.confirmed,
            waited_out_instances: reply.receipt.waited_out,
        }))
    }
}

fn revoked(reply: RevokeReply) -> v1::RevokeResponse {
    let RevokeReply {
        revoked,
        secret,
        receipt,
        uses,
        at,
    } = reply;
    v1::RevokeResponse {
        revoked: revoked
            .keys
            .iter()
            .map(|record| convert::api_key(record, &uses, at))
            .collect(),
        revoked_count: revoked.count,
        replacement: revoked
            .successor
            .as_ref()
            .map(|key| convert::api_key(&key.record, &uses, at)),
        api_key: secret.map(SecretText::into_exposed).unwrap_or_default(),
        revoke_time: revoked.revoke_time.map(convert::time),
        revision: revoked.committed.revision,
        confirmed_instances: receipt.confirmed,
        waited_out_instances: receipt.waited_out,
    }
}
