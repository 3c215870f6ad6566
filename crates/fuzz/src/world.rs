//! Keyward in this process. A target calls the handlers of its RPCs with bytes, without a network.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use keyward::config::Settings;
use keyward::grpc::{Api, reasons_table};
use keyward_core::key::ForeignFormat;
use keyward_proto::v1::admin_service_server::AdminServiceServer;
use keyward_proto::v1::api_key_service_server::ApiKeyServiceServer;
use keyward_testkit::Local;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::Service as _;

use crate::panics;

/// The time limit for the end of a connection, longer than that for an unfinished request.
const CLOSED: Duration = Duration::from_secs(30);

/// Short, because a near-cache that ends without a word is waited out. It is longer than the time since the last
/// heartbeat, mostly.
pub(crate) const NEAR_MAX_STALENESS: Duration = Duration::from_millis(200);

/// The unary RPCs of both services, without those that erase an account or change the keyring or webhooks.
pub(crate) const METHODS: [&str; 17] = [
    "ApiKeyService/Issue",
    "ApiKeyService/Revoke",
    "ApiKeyService/Verify",
    "ApiKeyService/VerifyBatch",
    "ApiKeyService/Get",
    "ApiKeyService/List",
    "ApiKeyService/Update",
    "AdminService/CreateToken",
    "AdminService/ListTokens",
    "AdminService/RevokeToken",
    "AdminService/ImportKeys",
    "AdminService/UndoImport",
    "AdminService/ExportKeys",
    "AdminService/GetKeyringStatus",
    "AdminService/ListAuditEvents",
    "AdminService/VerifyAudit",
    "AdminService/ListWebhooks",
];

/// The handlers of both services, as an HTTP/2 connection calls them.
#[derive(Clone)]
pub(crate) struct Handlers {
    keys: ApiKeyServiceServer<Api>,
    admin: AdminServiceServer<Api>,
}

impl Handlers {
    /// Calls an RPC with the frames of `body`, and returns the body of the response.
    pub(crate) async fn open<B>(
        &mut self,
        method: &str,
        token: Option<&str>,
        body: B,
    ) -> Result<Body, Status>
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let mut request = Request::post(format!("http://keyward/keyward.v1.{method}"))
            .header("content-type", "application/grpc");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).expect("a request can be made");
        let response = match method.starts_with("Admin") {
            true => self.admin.call(request).await,
            false => self.keys.call(request).await,
        };
        let (head, body) = response.expect("a handler answers").into_parts();
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => Err(as_outside(status)),
            _ => Ok(body),
        }
    }

    /// Calls an RPC with these bytes as its message, and returns the message of the response.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Vec<u8>, Status> {
        let body = Full::new(frame(message));
        let body = self.open(method, token, body).await?.collect().await;
        Ok(body.map_err(as_outside)?.to_bytes().slice(FRAME..).to_vec())
    }
}

/// The bytes of a frame that precede its message.
pub(crate) const FRAME: usize = 5;

/// A frame with this message.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("an input is short");
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

/// A status as the layer outside of the handlers passes it on.
pub(crate) fn as_outside(status: Status) -> Status {
    match status.code() {
        Code::Internal if status.details().is_empty() => Status::invalid_argument(status.message()),
        _ => status,
    }
}

/// A service with its embedded store.
pub(crate) struct World {
    runtime: Runtime,
    /// `None` only while it is dropped.
    local: Option<Local>,
    handlers: Handlers,
    /// The token with every role.
    pub(crate) token: String,
    /// The documented pairs of a reason and a status code.
    reasons: HashSet<(String, String)>,
}

impl World {
    /// Starts a service on an empty store.
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be created");
        let local = runtime.block_on(async {
            let local = local().await;
            local.restart_with_import_secrets(change).await
        });
        let api = local.app.api();
        Self {
            handlers: Handlers {
                keys: ApiKeyServiceServer::new(api.clone()),
                admin: AdminServiceServer::new(api.clone()),
            },
            token: local.token.clone(),
            local: Some(local),
            runtime,
            reasons: documented(),
        }
    }

    /// Calls an RPC with these bytes as its message, and returns the message of the response. Panics
    /// if the status is not documented.
    pub(crate) fn call(
        &mut self,
        method: &str,
        token: Option<&str>,
        message: &[u8],
    ) -> Result<Vec<u8>, Status> {
        let call = self.handlers.call(method, token, message);
        let answer = panics::none_during(|| self.runtime.block_on(call));
        if let Err(status) = &answer {
            self.check(method, status);
        }
        answer
    }

    /// Runs `play` with the handlers.
    pub(crate) fn play<T>(&self, play: impl AsyncFnOnce(Handlers) -> T) -> T {
        let playing = play(self.handlers.clone());
        panics::none_during(|| self.runtime.block_on(playing))
    }

    /// Panics if a status is not documented.
    pub(crate) fn check(&self, method: &str, status: &Status) {
        assert!(self.is_documented(status), "{method}: {status:?}");
    }

    /// Calls an RPC with every role.
    pub(crate) fn ask<A: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        let token = self.token.clone();
        let answer = self.call(method, Some(&token), &message.encode_to_vec())?;
        Ok(A::decode(&*answer).expect("a response is a message"))
    }

    /// Sends bytes to the JSON port, and returns what comes until the connection is closed. The service
    /// closes it if it should, or when the sending end `is_closed`.
    pub(crate) fn exchange(&mut self, bytes: &[u8], is_closed: bool) -> Vec<u8> {
        let port = self
            .local
            .as_ref()
            .and_then(|local| local.app.rest_address());
        let port = port.expect("the service listens");
        let talk = async {
            let mut stream = TcpStream::connect(port).await.expect("it accepts");
            // It may close the connection before it has read everything.
            let _ = stream.write_all(bytes).await;
            if is_closed {
                let _ = stream.shutdown().await;
            }
            let mut answer = Vec::new();
            let read = tokio::time::timeout(CLOSED, stream.read_to_end(&mut answer));
            let _ = read.await.expect("the connection is closed in time");
            answer
        };
        panics::none_during(|| self.runtime.block_on(talk))
    }

    /// Whether a reason is documented.
    pub(crate) fn knows(&self, reason: &str) -> bool {
        self.reasons.iter().any(|(known, _)| known == reason)
    }

    fn is_documented(&self, status: &Status) -> bool {
        let code = format!("{:?}", status.code()).to_uppercase();
        match status.get_error_details().error_info() {
            Some(info) => self.reasons.contains(&(info.reason.clone(), code)),
            // The codec refuses bytes that are no message.
            None => status.code() == Code::InvalidArgument,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(local) = self.local.take() {
            self.runtime.block_on(local.app.stop());
        }
    }
}

/// A service that does not mind if the fuzzer pauses.
pub(crate) async fn local() -> Local {
    Local::start_with(change, |store| store).await
}

fn change(settings: &mut Settings) {
    settings.max_staleness = Duration::from_secs(60);
    settings.near_max_staleness = NEAR_MAX_STALENESS;
    settings.foreign_formats = vec![ForeignFormat::parse("uuid").expect("a format")];
    settings.workers = 0;
    settings.http_listen = None;
}

/// The table of errors without INTERNAL, which no request may cause. Codes are written as by `Debug`
/// of tonic, in capitals.
fn documented() -> HashSet<(String, String)> {
    let table = reasons_table();
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let reason = cells.next()?.trim_matches('`').to_owned();
        Some((reason, cells.next()?.replace('_', "")))
    });
    rows.filter(|(reason, _)| reason != "INTERNAL").collect()
}
