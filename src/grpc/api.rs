//! `ApiKeyService`: who may call, what was asked, what is answered.

use keyward_proto::v1::api_key_service_server::ApiKeyService;
use keyward_proto::v1::{self, get_request};
use tonic::{Request, Response, Status};

use super::{Api, convert};
use crate::key::{FieldError, Role, SecretText};
use crate::service::{RevokeReply, ServiceError};

const MAX_BATCH: usize = 256;

#[tonic::async_trait]
impl ApiKeyService for Api {
    async fn issue(
        &self,
        request: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::IssueResponse>, Status> {
        let caller = self.authorize(request.metadata(), Role::Issuer).await?;
        let issue = convert::issue(request.into_inner()).map_err(ServiceError::from)?;
        let reply = self.service.issue(&caller, issue).await?;
        Ok(Response::new(v1::IssueResponse {
            key: Some(convert::api_key(&reply.record, reply.at)),
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
        // Issuer, or reporter for a key's text: the use case tells them apart.
        let caller = self.authenticate(request.metadata()).await?;
        let revoke = convert::revoke(request.into_inner()).map_err(ServiceError::from)?;
        let reply = self.service.revoke(&caller, revoke).await?;
        Ok(Response::new(reply.map(revoked).unwrap_or_default()))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        self.authorize(request.metadata(), Role::Verifier).await?;
        let verify = convert::verify(request.into_inner()).map_err(ServiceError::from)?;
        let verified = self.service.verify(&verify).await?;
        Ok(Response::new(convert::verified(&verified)))
    }

    async fn verify_batch(
        &self,
        request: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        self.authorize(request.metadata(), Role::Verifier).await?;
        let requests = request.into_inner().requests;
        if requests.len() > MAX_BATCH {
            let reason = format!("takes at most {MAX_BATCH}, there are {}", requests.len());
            return Err(ServiceError::from(FieldError::new("requests", reason)).into());
        }
        let one = |(n, request)| {
            convert::verify(request).map_err(|error| error.within(&format!("requests[{n}]")))
        };
        let batch = requests
            .into_iter()
            .enumerate()
            .map(one)
            .collect::<Result<Vec<_>, _>>()
            .map_err(ServiceError::from)?;
        let verified = self.service.verify_batch(&batch).await?;
        let responses = verified.iter().map(convert::verified).collect();
        Ok(Response::new(v1::VerifyBatchResponse { responses }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        self.authorize(request.metadata(), Role::Reader).await?;
        let (record, at) = match request.into_inner().target {
            None => {
                let error = FieldError::new("target", "one of key_id, api_key is needed");
                return Err(ServiceError::from(error).into());
            }
            Some(get_request::Target::KeyId(text)) => {
                let id = convert::key_id("key_id", &text).map_err(ServiceError::from)?;
                self.service.get(id).await?
            }
            Some(get_request::Target::ApiKey(text)) => {
                self.service.get_by_text(&SecretText::new(text)).await?
            }
        };
        Ok(Response::new(v1::GetResponse {
            key: Some(convert::api_key(&record, at)),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        self.authorize(request.metadata(), Role::Reader).await?;
        let request = request.into_inner();
        let account = crate::key::AccountId::new("account_id", request.account_id)
            .map_err(ServiceError::from)?;
        let query = convert::page(request.page_size, request.page_token);
        let page = self
            .service
            .list(account, request.include_revoked, query)
            .await?;
        let keys = page
            .items
            .iter()
            .map(|record| convert::api_key(record, page.at))
            .collect();
        Ok(Response::new(v1::ListResponse {
            keys,
            next_page_token: page.next,
        }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let caller = self.authorize(request.metadata(), Role::Editor).await?;
        let (id, changes) = convert::update(request.into_inner()).map_err(ServiceError::from)?;
        let reply = self.service.update(&caller, id, changes).await?;
        Ok(Response::new(v1::UpdateResponse {
            revision: reply.record.revision,
            key: Some(convert::api_key(&reply.record, reply.at)),
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
        at,
    } = reply;
    v1::RevokeResponse {
        revoked: revoked
            .keys
            .iter()
            .map(|record| convert::api_key(record, at))
            .collect(),
        revoked_count: revoked.count,
        replacement: revoked
            .successor
            .as_ref()
            .map(|key| convert::api_key(&key.record, at)),
        api_key: secret.map(SecretText::into_exposed).unwrap_or_default(),
        revoke_time: revoked.revoke_time.map(convert::time),
        revision: revoked.committed.revision,
        confirmed_instances: receipt.confirmed,
        waited_out_instances: receipt.waited_out,
    }
}
