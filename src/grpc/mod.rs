//! The gRPC server. It only translates: messages to domain types, and errors to statuses (`status`).
//! The use cases are in `service`.

mod admin;
mod agent;
mod api;
mod body;
mod connection;
mod convert;
mod deadline;
mod door;
mod encoding;
mod envoy;
mod gate;
mod handler;
mod identity;
mod immediate;
mod import;
mod listener;
mod long_calls;
mod near;
mod observe;
mod origin;
mod peer;
mod serve;
mod status;
mod tls;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::FILE_DESCRIPTOR_SET;
use keyward_proto::envoy::authorization_server::AuthorizationServer;
use keyward_proto::v1::admin_service_server::AdminServiceServer;
use keyward_proto::v1::api_key_service_server::ApiKeyServiceServer;
use tokio::runtime::Handle;
use tonic::Request;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Layer as _;

use crate::auth::{Caller, Callers};
use crate::service::{Service, ServiceError};
use keyward_core::key::{Clock, Role};
use keyward_guard::TrustedProxies;
use keyward_ops::PortMetrics;
use keyward_ops::traces::Sampling;

pub use agent::{Agent, LocalCallers, agent_server};
pub use body::RequestBody;
pub use convert::{keep, keep_foreign};
pub use door::{Http, Services};
pub use immediate::VERIFY;
pub use listener::Listener;
pub use long_calls::LongCalls;
pub use origin::is_request_id;
pub use peer::Limits;
pub(crate) use status::{HEADERS_TOO_LARGE, REQUEST_UNFINISHED};
pub use status::{no_route, not_json, reasons_table, undecodable, wrong_method};
pub use tls::{Tls, TlsError, TlsFiles};
pub use workers::{Listeners, Workers, accept};

use deadline::Progress;
use envoy::Envoy;
use gate::Doorkeeper;
use handler::{Handler, Layers, stacked};
use immediate::{Immediate, Methods};
use observe::Observer;
use origin::{Called, origin};
use peer::{Peer, Peers};

/// The maximum size of a request, in bytes, compressed or not.
const MAX_REQUEST: usize = 1 << 20;
/// The maximum size of a request that needs no token, in bytes.
const MAX_OPEN_REQUEST: usize = 64 << 10;
/// The maximum number of concurrent streams of a connection. A client that needs more opens another
/// connection.
const MAX_STREAMS: u32 = 1_024;
/// The maximum size of a request's headers, in bytes.
const MAX_HEADERS: usize = 16 << 10;
/// The limit of HTTP/2 for headers. Above it HTTP/2 answers 431 without a gRPC status.
const MAX_HTTP2_HEADERS: u32 = 64 << 10;
/// What a client may send ahead on one stream and on one connection, in bytes. A stranger's
/// connection holds no more.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// h2 closes a connection whose short DATA frames are not read yet and take more than half of its window,
/// each counted as this many bytes. A first call on each stream must not do that.
const SHORT_FRAME: u32 = 256;
const _: () = assert!(CONNECTION_WINDOW / 2 >= MAX_STREAMS * SHORT_FRAME);

/// The service name for health checks, besides the empty name.
pub const SERVICE_NAME: &str = "keyward.v1.ApiKeyService";

/// The handler of all services.
#[derive(Clone)]
pub struct Api {
    service: Arc<Service>,
    callers: Arc<Callers>,
    envoy: Arc<Envoy>,
    proxies: Arc<TrustedProxies>,
}

impl Api {
    /// Serves the use cases of `service` to the callers that `callers` authenticates, and to Envoy.
    /// Addresses of clients are taken from behind `proxies`.
    pub fn new(service: Arc<Service>, callers: Arc<Callers>, proxies: TrustedProxies) -> Self {
        Self {
            service,
            callers,
            envoy: Arc::new(Envoy::new(proxies.clone())),
            proxies: Arc::new(proxies),
        }
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
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let headers = request.metadata().as_ref();
        let entropy = &*self.service.entropy;
        let origin = origin(peer.as_deref(), headers, &self.proxies, entropy);
        let (caller, converted) = self.authorize_read(request, role, convert).await?;
        // Only a call with a deadline has it.
        progress.map_or(Ok(()), |progress| progress.start_change())?;
        Ok((caller.at(origin), converted))
    }

    /// Requires `role` of the caller (if any; otherwise the use case checks the role), and converts
    /// the message. The conversion runs first, so that a secret in the message is always wiped. Its
    /// error is returned last, so that an unknown caller learns nothing from it.
    async fn authorize_read<M, T, E>(
        &self,
        mut request: Request<M>,
        role: impl Into<Option<Role>>,
        convert: impl FnOnce(M) -> Result<T, E>,
    ) -> Result<(Caller, T), ServiceError>
    where
        ServiceError: From<E>,
    {
        let judged = request.extensions_mut().remove::<Caller>();
        let called = request.extensions_mut().remove::<Called>();
        let (metadata, _, message) = request.into_parts();
        let converted = convert(message);
        let caller = match judged {
            Some(caller) => caller,
            // The request did not pass the gate.
            None => {
                let values = metadata.get_all("authorization").into_iter();
                let values = values.map(|value| value.as_encoded_bytes());
                self.callers.authenticate(values, None).await?
            }
        };
        if let Some(role) = role.into()
            && let Err(denied) = caller.require(role)
        {
            if let Some(called) = called {
                self.service.note_denial(&caller, called.name(), &denied);
            }
            return Err(denied.into());
        }
        Ok((caller, converted?))
    }
}

/// A configured server, ready to serve connections.
#[derive(Clone)]
pub struct Server {
    handler: Arc<dyn Handler>,
    long_calls: Handle,
    sampling: Sampling,
    max_age: Option<Duration>,
    peers: Arc<Peers>,
}

impl Server {
    fn new(handler: Arc<dyn Handler>, metrics: &PortMetrics, front: &Front<'_>) -> Self {
        Self {
            handler,
            long_calls: front.long_calls.handle(),
            sampling: front.sampling,
            max_age: front.max_connection_age,
            peers: Peers::new(front.limits, metrics.limits.clone()),
        }
    }
}

/// What limits the connections and calls of a server.
pub struct Front<'a> {
    /// The limits of the process.
    pub limits: Limits,
    /// The age at which a client must open another connection.
    pub max_connection_age: Option<Duration>,
    /// The threads of long calls.
    pub long_calls: &'a LongCalls,
    /// Which calls are traced.
    pub sampling: Sampling,
}

/// Builds the server: all services, health checks, and both versions of reflection.
pub fn server(
    api: Api,
    health: HealthServer<impl Health>,
    metrics: &PortMetrics,
    clock: Arc<dyn Clock>,
    front: &Front<'_>,
) -> Result<Server, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let callers = Doorkeeper::Tokens(Arc::clone(&api.callers));
    let observer = Arc::new(Observer::new(metrics, Arc::clone(&clock)));
    let immediate = Immediate::new(api.clone(), Methods::new(&observer, clock));
    let keys = ApiKeyServiceServer::new(api.clone())
        .max_decoding_message_size(MAX_REQUEST)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let envoy = AuthorizationServer::new(api.clone()).max_decoding_message_size(MAX_REQUEST);
    let admin = AdminServiceServer::new(api)
        .max_decoding_message_size(MAX_REQUEST)
        .accept_compressed(Gzip);
    let mut routes = Routes::builder();
    routes
        .add_service(keys)
        .add_service(admin)
        .add_service(envoy)
        .add_service(health.max_decoding_message_size(MAX_OPEN_REQUEST))
        .add_service(v1.max_decoding_message_size(MAX_OPEN_REQUEST))
        .add_service(v1alpha.max_decoding_message_size(MAX_OPEN_REQUEST));
    let inner = encoding::layer().layer(routes.routes().prepare());
    let handler = Layers {
        stack: stacked(inner, observer, callers, front),
        immediate: Arc::new(immediate),
    };
    Ok(Server::new(Arc::new(handler), metrics, front))
}
