//! Verdicts for local programs: from the near-cache, or from Keyward with the agent's own token.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use keyward_client::{self as client, Secret, VerifyRequest};
use keyward_guard::Verdict;
use keyward_proto::envoy::{CheckRequest, CheckResponse};
use keyward_proto::v1;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::super::observe::CHECK;
use super::super::peer::Peer;
use super::super::status::AgentError;
use super::super::{MAX_REQUEST, convert};
use super::Agent;
use crate::cache::Consistency;
use crate::service::{ServiceError, Verify};

/// The path of VerifyBatch.
pub(super) const VERIFY_BATCH: &str = "/keyward.v1.ApiKeyService/VerifyBatch";

impl Agent {
    /// Answers a call of a local program.
    pub(super) async fn verdicts(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Body>, Infallible> {
        Ok(match request.uri().path() {
            VERIFY_BATCH => {
                let batch = service_fn(|asked| self.batch(asked));
                grpc().unary(batch, request).await
            }
            CHECK => {
                let check = service_fn(|asked: tonic::Request<_>| self.check(asked.into_inner()));
                grpc().unary(check, request).await
            }
            _ => {
                let verify = service_fn(|asked: tonic::Request<_>| self.verify(asked.into_inner()));
                grpc().unary(verify, request).await
            }
        })
    }

    async fn verify(
        &self,
        request: v1::VerifyRequest,
    ) -> Result<tonic::Response<v1::VerifyResponse>, Status> {
        let verify = convert::verify(request).map_err(ServiceError::from)?;
        let verdict = self.verdict(&verify).await?;
        Ok(tonic::Response::new((&verdict).into()))
    }

    async fn batch(
        &self,
        request: tonic::Request<v1::VerifyBatchRequest>,
    ) -> Result<tonic::Response<v1::VerifyBatchResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let peer = extensions.get::<Arc<Peer>>();
        let mut held = peer.ok_or(ServiceError::Internal)?.reservation();
        // The keys are in memory while the call waits for Keyward.
        held.grow(request.encoded_len())?;
        let batch = convert::verify_batch(request).map_err(ServiceError::from)?;
        let judged = self.near.verify_batch(batch.iter().map(asking).collect());
        let verdicts = judged.await.map_err(|error| self.cut_off(error))?;
        let responses = verdicts.iter().map(Into::into).collect();
        Ok(tonic::Response::new(v1::VerifyBatchResponse { responses }))
    }

    async fn check(&self, request: CheckRequest) -> Result<tonic::Response<CheckResponse>, Status> {
        let answer = match self.envoy.ask(request) {
            Ok(asked) => {
                let verdict = self.verdict(&asked.verify).await?;
                self.envoy.answer(asked, Some(verdict))
            }
            Err(unasked) => self.envoy.unasked(&unasked),
        };
        answer.map(tonic::Response::new)
    }

    async fn verdict(&self, verify: &Verify) -> Result<Verdict, Status> {
        let judged = self.near.verify(asking(verify)).await;
        judged.map_err(|error| self.cut_off(error))
    }

    fn cut_off(&self, error: client::Error) -> Status {
        self.note(&error);
        AgentError::CutOff(error).into()
    }
}

/// What the client asks for a call. A local program keeps nothing, so it gets no entry.
pub(super) fn asking(verify: &Verify) -> VerifyRequest {
    VerifyRequest {
        api_key: Secret::new(verify.text.expose()),
        required_scopes: verify.ask.scopes.to_vec(),
        client_ip: verify.ask.client,
        consistency: match verify.consistency {
            Consistency::Default => client::Consistency::Default,
            Consistency::Strong => client::Consistency::Strong,
        },
    }
}

/// Reads and writes messages as the service does.
fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    Grpc::new(ProstCodec::default())
        .apply_max_message_size_config(Some(MAX_REQUEST), None)
        .accept_compressed(Gzip)
}
