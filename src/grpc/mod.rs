//! The gRPC surface: translation only. Every message becomes domain types here and every error a
//! status in `status`; what is done stands in `service`.

mod admin;
mod api;
mod convert;
mod observe;
mod status;
mod workers;

use std::sync::Arc;

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_proto::v1::admin_service_server::AdminServiceServer;
use keyward_proto::v1::api_key_service_server::ApiKeyServiceServer;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use crate::caller::{Caller, Callers};
use crate::key::{Clock, Role};
use crate::service::{Service, ServiceError};
use crate::telemetry::Metrics;

pub use status::reasons_table;
pub use workers::{Workers, accept};

use observe::ObserveLayer;

/// The most bytes of one request.
const MAX_REQUEST: usize = 1 << 20;
/// The most streams of one connection at a time; a client that wants more opens another.
const MAX_STREAMS: u32 = 1_024;
/// The most bytes of a request's headers.
const MAX_HEADERS: u32 = 16 << 10;

/// The name that health is asked for, beside the empty one.
pub const SERVICE_NAME: &str = "keyward.v1.ApiKeyService";

/// What both services share.
#[derive(Clone, Debug)]
pub struct Api {
    service: Arc<Service>,
    callers: Arc<Callers>,
}

impl Api {
    /// Serves `service` to those whom `callers` lets in.
    pub fn new(service: Arc<Service>, callers: Arc<Callers>) -> Self {
        Self { service, callers }
    }

    /// Lets in a caller that holds `role`.
    async fn authorize(&self, metadata: &MetadataMap, role: Role) -> Result<Caller, ServiceError> {
        let caller = self.authenticate(metadata).await?;
        caller.require(role)?;
        Ok(caller)
    }

    /// Lets in any caller; what it may do is for the use case to say.
    async fn authenticate(&self, metadata: &MetadataMap) -> Result<Caller, ServiceError> {
        let values = metadata.get_all("authorization").into_iter();
        Ok(self
            .callers
            .authenticate(values.map(|value| value.as_encoded_bytes()))
            .await?)
    }
}

/// A server with this surface, ready to take connections.
pub type Server = Router<Stack<ObserveLayer, Identity>>;

/// Everything on the port: both services, health, and reflection in both its versions.
pub fn server(
    api: Api,
    health: HealthServer<impl Health>,
    metrics: &Metrics,
    clock: Arc<dyn Clock>,
) -> Result<Server, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(ApiKeyServiceServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(AdminServiceServer::new(api).max_decoding_message_size(MAX_REQUEST))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(tonic::transport::Server::builder()
        .layer(ObserveLayer::new(metrics, clock))
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .add_routes(routes.routes().prepare()))
}
