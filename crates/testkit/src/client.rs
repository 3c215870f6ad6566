//! A gRPC client with a token.

use std::net::SocketAddr;
use std::time::Duration;

use keyward_proto::v1;
use keyward_proto::v1::admin_service_client::AdminServiceClient;
use keyward_proto::v1::api_key_service_client::ApiKeyServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error};
use tonic::{Request, Status};

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

/// Clients of both services with one token over one connection. Clone the fields for concurrent
/// use.
#[derive(Clone)]
pub struct Client {
    /// `ApiKeyService`.
    pub keys: ApiKeyServiceClient<InterceptedService<Channel, Bearer>>,
    /// `AdminService`.
    pub admin: AdminServiceClient<InterceptedService<Channel, Bearer>>,
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
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted));
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
            admin: AdminServiceClient::with_interceptor(channel.clone(), bearer),
            channel,
        }
    }

    /// Issues the key of a slot. Returns its id and its secret.
    pub async fn issue(&self, account: &str, name: &str) -> Result<(String, String), Status> {
        let request = v1::IssueRequest {
            account_id: account.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let reply = self.keys.clone().issue(request).await?.into_inner();
        Ok((reply.key.unwrap_or_default().key_id, reply.api_key))
    }

    /// The verdict on a key.
    pub async fn verify(&self, api_key: &str) -> Result<v1::Verdict, Status> {
        let request = v1::VerifyRequest {
            api_key: api_key.to_owned(),
            ..Default::default()
        };
        Ok(self
            .keys
            .clone()
            .verify(request)
            .await?
            .into_inner()
            .verdict())
    }

    /// Revokes one key.
    pub async fn revoke(&self, key_id: &str) -> Result<v1::RevokeResponse, Status> {
        let target = v1::revoke_request::Target::KeyId(key_id.to_owned());
        let request = v1::RevokeRequest {
            target: Some(target),
            ..Default::default()
        };
        Ok(self.keys.clone().revoke(request).await?.into_inner())
    }

    /// Creates a token with these roles.
    pub async fn token(&self, name: &str, roles: &[v1::Role]) -> Result<String, Status> {
        let request = v1::CreateTokenRequest {
            name: name.to_owned(),
            roles: roles.iter().map(|role| *role as i32).collect(),
        };
        Ok(self
            .admin
            .clone()
            .create_token(request)
            .await?
            .into_inner()
            .token)
    }
}
