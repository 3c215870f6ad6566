//! A gRPC client with a token.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use keyward_proto::envoy::authorization_client::AuthorizationClient;
use keyward_proto::v1;
use keyward_proto::v1::admin_service_client::AdminServiceClient;
use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity as PemIdentity,
};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::Identity;
use crate::load::patiently;
use crate::requests::{self, Call};

/// Adds the token, if there is one, to every call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Clients of all services with one token over one connection. Clone the fields for concurrent
/// use.
#[derive(Clone)]
pub struct Client {
    /// `ApiKeyService`.
    pub keys: ApiKeyServiceClient<InterceptedService<Channel, Bearer>>,
    /// `AdminService`.
    pub admin: AdminServiceClient<InterceptedService<Channel, Bearer>>,
    /// Envoy's `Authorization`.
    pub envoy: AuthorizationClient<InterceptedService<Channel, Bearer>>,
    /// The connection, for services that need no token.
    pub channel: Channel,
}

/// Connects to a Keyward at this address.
pub async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address makes an endpoint")
        .connect_timeout(Duration::from_secs(5))
        .connect()
        .await
        .expect("Keyward takes connections")
}

/// Connects with TLS. The server must have a certificate for the address from an authority in
/// `trusted` (PEM).
///
/// # Errors
///
/// The connection failed.
pub async fn connect_tls(address: SocketAddr, trusted: &str) -> Result<Channel, Error> {
    connect_tls_as(address, trusted, None).await
}

/// Connects as [`connect_tls`] does, and presents this certificate.
///
/// # Errors
///
/// The connection failed.
pub async fn connect_tls_as(
    address: SocketAddr,
    trusted: &str,
    own: Option<&Identity>,
) -> Result<Channel, Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted));
    let tls = match own {
        Some(own) => tls.identity(PemIdentity::from_pem(&own.certificate, &own.key)),
        None => tls,
    };
    Endpoint::from_shared(format!("https://{address}"))?
        .connect_timeout(Duration::from_secs(20))
        .tls_config(tls)?
        .connect()
        .await
}

/// The response of the side port to a GET of `path`: status line, headers and body.
pub async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the side port takes connections");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the side port reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("the side port answers");
    answer
}

/// The number in the line of the metrics at a side port that begins with `line`: a name and all its labels.
///
/// # Panics
///
/// It is no number of this type.
pub async fn metric<N: FromStr<Err: Debug>>(side_port: SocketAddr, line: &str) -> Option<N> {
    let metrics = http_get(side_port, "/metrics").await;
    let mut lines = metrics.lines();
    let number = lines.find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))?;
    Some(number.parse().expect("a number"))
}

impl Client {
    /// A client with `token`, or without a token.
    pub async fn new(address: SocketAddr, token: Option<&str>) -> Self {
        Self::over(connect(address).await, token)
    }

    /// A client over an existing connection.
    pub fn over(channel: Channel, token: Option<&str>) -> Self {
        let value = token.map(|token| {
            format!("Bearer {token}")
                .parse()
                .expect("a token is printable ASCII")
        });
        let bearer = Bearer(value);
        Self {
            keys: ApiKeyServiceClient::with_interceptor(channel.clone(), bearer.clone())
                .max_decoding_message_size(8 << 20),
            admin: AdminServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            envoy: AuthorizationClient::with_interceptor(channel.clone(), bearer),
            channel,
        }
    }

    /// Sends a request and returns the answer.
    ///
    /// # Errors
    ///
    /// The service's refusal, or the failure of the connection.
    pub async fn send<C: Call>(&self, request: C) -> Result<C::Answer, Status> {
        request.send(self).await
    }

    /// Issues the key of a slot. Returns its id and its secret.
    pub async fn issue(&self, account: &str, name: &str) -> Result<(String, String), Status> {
        let request = v1::IssueRequest {
            name: name.to_owned(),
            ..requests::slot(account)
        };
        let issued = self.send(request).await?;
        Ok((issued.key.unwrap_or_default().key_id, issued.api_key))
    }

    /// The verdict on a key.
    pub async fn verify(&self, api_key: &str) -> Result<v1::Verdict, Status> {
        let verified = self.send(requests::verifying(api_key)).await?;
        Ok(verified.verdict())
    }

    /// The verdict on a key. Waits while the instance is UNAVAILABLE.
    pub async fn verdict(&self, api_key: &str) -> v1::Verdict {
        patiently(async || self.verify(api_key).await).await
    }

    /// The verdict of the store on a key.
    pub async fn verify_strongly(&self, api_key: &str) -> Result<v1::Verdict, Status> {
        let verified = self.send(requests::verifying_strongly(api_key)).await?;
        Ok(verified.verdict())
    }

    /// Revokes one key.
    pub async fn revoke(&self, key_id: &str) -> Result<v1::RevokeResponse, Status> {
        self.send(requests::by_id(key_id)).await
    }

    /// Disables one key, or enables it again.
    pub async fn disable(
        &self,
        key_id: &str,
        disabled: bool,
    ) -> Result<v1::UpdateResponse, Status> {
        self.send(requests::disabling(key_id, disabled)).await
    }

    /// Reads one key.
    pub async fn get(&self, key_id: &str) -> Result<v1::ApiKey, Status> {
        let found = self.send(requests::getting(key_id)).await?;
        Ok(found.key.unwrap_or_default())
    }

    /// Up to 1,000 keys of an account, revoked keys too.
    pub async fn list(&self, account: &str) -> Result<Vec<v1::ApiKey>, Status> {
        Ok(self.send(requests::listing_all(account)).await?.keys)
    }

    /// Creates a token with these roles.
    pub async fn token(&self, name: &str, roles: &[v1::Role]) -> Result<String, Status> {
        Ok(self
            .send(requests::creating_token(name, roles))
            .await?
            .token)
    }

    /// What the health service says of the whole instance.
    ///
    /// # Panics
    ///
    /// When the instance does not answer.
    pub async fn health(&self) -> ServingStatus {
        let request = HealthCheckRequest::default();
        let answer = HealthClient::new(self.channel.clone()).check(request).await;
        answer.expect("the instance answers").get_ref().status()
    }
}
