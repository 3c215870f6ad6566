//! The gRPC surface: translation only. Every message becomes domain types here and every error a
//! status in `status`; what is done stands in `service`.

mod admin;
mod api;
mod connection;
mod convert;
mod observe;
mod status;
mod tls;
mod workers;

use std::sync::Arc;

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_proto::v1::admin_service_server::AdminServiceServer;
use keyward_proto::v1::api_key_service_server::ApiKeyServiceServer;
use tonic::Request;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use crate::auth::{Caller, Callers};
use crate::service::{Service, ServiceError};
use keyward_core::key::{Clock, FieldError, Role};
use keyward_ops::Metrics;

pub use status::reasons_table;
pub use tls::{Tls, TlsError};
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

    /// Reads a request and lets its caller in, if it holds `role` (where there is one; otherwise
    /// the use case tells). The message is read first, so that a secret in it is wiped when it
    /// goes, and refused last, so that a stranger learns nothing of it.
    async fn authorize<M, T>(
        &self,
        request: Request<M>,
        role: impl Into<Option<Role>>,
        read: impl FnOnce(M) -> Result<T, FieldError>,
    ) -> Result<(Caller, T), ServiceError> {
        let (metadata, _, message) = request.into_parts();
        let read = read(message);
        let sent = metadata.get_all("authorization").into_iter();
        let sent = sent.map(|value| value.as_encoded_bytes());
        let caller = self.callers.authenticate(sent).await?;
        if let Some(role) = role.into() {
            caller.require(role)?;
        }
        Ok((caller, read?))
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
