//! The gRPC server. It only translates: messages to domain types, and errors to statuses (`status`).
//! The use cases are in `service`.

mod admin;
mod api;
mod connection;
mod convert;
mod deadline;
mod encoding;
mod observe;
mod status;
mod tls;
mod workers;

use std::sync::Arc;

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_proto::v1::admin_service_server::AdminServiceServer;
use keyward_proto::v1::api_key_service_server::ApiKeyServiceServer;
use tonic::Request;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::layer::util::{Identity, Stack};

use crate::auth::{Caller, Callers};
use crate::service::{Service, ServiceError};
use keyward_core::key::{Clock, Role};
use keyward_ops::Metrics;

pub use status::reasons_table;
pub use tls::{Tls, TlsError};
pub use workers::{Workers, accept};

use deadline::{DeadlineLayer, Progress};
use encoding::EncodingLayer;
use observe::ObserveLayer;

/// The maximum size of a request, in bytes, compressed or not.
const MAX_REQUEST: usize = 1 << 20;
/// The maximum number of concurrent streams of a connection. A client that needs more opens another
/// connection.
const MAX_STREAMS: u32 = 1_024;
/// The maximum size of a request's headers, in bytes.
const MAX_HEADERS: u32 = 16 << 10;

/// The service name for health checks, besides the empty name.
pub const SERVICE_NAME: &str = "keyward.v1.ApiKeyService";

/// The handler of both services.
#[derive(Clone, Debug)]
pub struct Api {
    service: Arc<Service>,
    callers: Arc<Callers>,
}

impl Api {
    /// Serves the use cases of `service` to the callers that `callers` authenticates.
    pub fn new(service: Arc<Service>, callers: Arc<Callers>) -> Self {
        Self { service, callers }
    }

    /// Authorizes a call that may change something, and starts its change.
    async fn authorize<M, T, E>(
        &self,
        mut request: Request<M>,
        role: impl Into<Option<Role>>,
        convert: impl FnOnce(M) -> Result<T, E>,
    ) -> Result<(Caller, T), ServiceError>
    where
        ServiceError: From<E>,
    {
        let progress = request.extensions_mut().remove::<Progress>();
        let authorized = self.authorize_read(request, role, convert).await?;
        // Only a call with a deadline has it.
        progress.map_or(Ok(()), |progress| progress.start_change())?;
        Ok(authorized)
    }

    /// Authenticates the caller, requires `role` (if any; otherwise the use case checks the role),
    /// and converts the message. The conversion runs first, so that a secret in the message is
    /// always wiped. Its error is returned last, so that an unknown caller learns nothing from it.
    async fn authorize_read<M, T, E>(
        &self,
        request: Request<M>,
        role: impl Into<Option<Role>>,
        convert: impl FnOnce(M) -> Result<T, E>,
    ) -> Result<(Caller, T), ServiceError>
    where
        ServiceError: From<E>,
    {
        let (metadata, _, message) = request.into_parts();
        let converted = convert(message);
        let values = metadata.get_all("authorization").into_iter();
        let values = values.map(|value| value.as_encoded_bytes());
        let caller = self.callers.authenticate(values).await?;
        if let Some(role) = role.into() {
            caller.require(role)?;
        }
        Ok((caller, converted?))
    }
}

/// A configured server, ready to accept connections.
pub type Server = Router<Stack<EncodingLayer, Stack<DeadlineLayer, Stack<ObserveLayer, Identity>>>>;

/// Builds the server: both services, health checks, and both versions of reflection.
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
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let keys = ApiKeyServiceServer::new(api.clone())
        .max_decoding_message_size(MAX_REQUEST)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let admin = AdminServiceServer::new(api)
        .max_decoding_message_size(MAX_REQUEST)
        .accept_compressed(Gzip);
    let mut routes = Routes::builder();
    routes
        .add_service(keys)
        .add_service(admin)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(tonic::transport::Server::builder()
        .layer(ObserveLayer::new(metrics, clock))
        .layer(DeadlineLayer)
        .layer(encoding::layer())
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
        .add_routes(routes.routes().prepare()))
}
