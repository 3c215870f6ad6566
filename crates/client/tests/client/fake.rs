//! Keyward's two services, with the responses that a test sets.

mod running;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyward_client::{Builder, Client, Secret, v1};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::Extensions;
use tonic::metadata::MetadataMap;
use tonic::transport::server::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};
use v1::admin_service_server::{AdminService, AdminServiceServer};
use v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};

pub(crate) use running::Running;

/// Any free port on loopback.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The limit for events that must happen and happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The parts of a call besides its message.
pub(crate) struct Seen<'a> {
    pub(crate) metadata: &'a MetadataMap,
    pub(crate) extensions: &'a Extensions,
}

impl Seen<'_> {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(|value| value.to_str().unwrap())
    }
}

type Check = dyn FnMut(Seen<'_>) -> Result<(), Status> + Send;

/// The responses of a service, and the calls that it received.
pub(crate) struct Script {
    /// Runs before every response.
    before: Mutex<Box<Check>>,
    /// The response to Verify.
    pub(crate) verdict: Mutex<v1::VerifyResponse>,
    /// The requests of Verify.
    pub(crate) requests: Mutex<Vec<v1::VerifyRequest>>,
    /// Takes the streams of near-caches, which a test serves by hand.
    pub(crate) streams: Mutex<Option<mpsc::UnboundedSender<Stream>>>,
    calls: AtomicUsize,
}

/// The stream of a near-cache.
pub(crate) struct Stream {
    pub(crate) polls: Streaming<v1::WatchInvalidationsRequest>,
    pub(crate) answers: mpsc::Sender<Result<v1::WatchInvalidationsResponse, Status>>,
}

/// The response for a valid key.
pub(crate) fn valid() -> v1::VerifyResponse {
    v1::VerifyResponse {
        verdict: v1::Verdict::Valid.into(),
        key_id: "0197-key".to_owned(),
        account_id: "42".to_owned(),
        name: "default".to_owned(),
        scopes: vec!["orders:read".to_owned(), "orders:write".to_owned()],
        metadata: [("plan".to_owned(), "gold".to_owned())].into(),
        expire_time: Some(prost_types::Timestamp {
            seconds: 2_000_000_000,
            nanos: 0,
        }),
        revision: 7,
        cache_entry: None,
    }
}

/// A status in the form of Keyward.
pub(crate) fn status(code: tonic::Code, reason: &str) -> Status {
    let metadata = [("replacement_key_id".to_owned(), "0198".to_owned())];
    let details = ErrorDetails::with_error_info(reason, "keyward", metadata);
    Status::with_error_details(code, "refused by the test", details)
}

impl Script {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            before: Mutex::new(Box::new(|_| Ok(()))),
            verdict: Mutex::new(valid()),
            requests: Mutex::default(),
            streams: Mutex::default(),
            calls: AtomicUsize::new(0),
        })
    }

    /// Runs `before` before every response from now on.
    pub(crate) fn before(
        &self,
        before: impl FnMut(Seen<'_>) -> Result<(), Status> + Send + 'static,
    ) {
        *self.before.lock() = Box::new(before);
    }

    /// Refuses every call from now on.
    pub(crate) fn refuse(&self, code: tonic::Code, reason: &'static str) {
        self.before(move |_| Err(status(code, reason)));
    }

    /// The number of calls.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn enter<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let seen = Seen {
            metadata: request.metadata(),
            extensions: request.extensions(),
        };
        (self.before.lock())(seen)
    }
}

/// Both services, with one script.
pub(crate) struct Service(pub(crate) Arc<Script>);

#[async_trait::async_trait]
impl ApiKeyService for Service {
    type WatchInvalidationsStream = ReceiverStream<Result<v1::WatchInvalidationsResponse, Status>>;

    async fn watch_invalidations(
        &self,
        request: Request<Streaming<v1::WatchInvalidationsRequest>>,
    ) -> Result<Response<Self::WatchInvalidationsStream>, Status> {
        self.0.enter(&request)?;
        let (answers, receiver) = mpsc::channel(1);
        let polls = request.into_inner();
        let handed = self.0.streams.lock().as_ref().map(|test| {
            let stream = Stream { polls, answers };
            test.send(stream).is_ok()
        });
        match handed {
            Some(true) => Ok(Response::new(ReceiverStream::new(receiver))),
            _ => Err(status(tonic::Code::Unavailable, "NOT_FRESH")),
        }
    }

    async fn issue(
        &self,
        request: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::IssueResponse>, Status> {
        self.0.enter(&request)?;
        Ok(Response::new(v1::IssueResponse {
            api_key: "kw_new".to_owned(),
            created: true,
            ..Default::default()
        }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        self.0.enter(&request)?;
        Ok(Response::new(v1::RevokeResponse {
            revoked_count: 1,
            ..Default::default()
        }))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        self.0.enter(&request)?;
        self.0.requests.lock().push(request.into_inner());
        Ok(Response::new(self.0.verdict.lock().clone()))
    }

    async fn verify_batch(
        &self,
        request: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        self.0.enter(&request)?;
        let answer = self.0.verdict.lock().clone();
        let requests = request.into_inner().requests;
        // This key gets no verdict, so that a test can have an incomplete response.
        let answered = requests.iter().filter(|key| key.api_key != "kw_skip");
        let responses = answered.map(|_| answer.clone()).collect();
        Ok(Response::new(v1::VerifyBatchResponse { responses }))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        self.0.enter(&request)?;
        Ok(Response::new(v1::GetResponse {
            key: Some(v1::ApiKey::default()),
        }))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        self.0.enter(&request)?;
        Ok(Response::new(v1::ListResponse {
            next_page_token: "more".to_owned(),
            ..Default::default()
        }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        self.0.enter(&request)?;
        Ok(Response::new(v1::UpdateResponse {
            revision: 9,
            ..Default::default()
        }))
    }
}

/// AdminService, whose responses are always the same.
macro_rules! admin_service {
    ($($method:ident: $request:ident => $response:ident, $answer:expr;)*) => {
        #[async_trait::async_trait]
        impl AdminService for Service {$(
            async fn $method(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                self.0.enter(&request)?;
                Ok(Response::new($answer))
            }
        )*}
    };
}

admin_service! {
    create_token: CreateTokenRequest => CreateTokenResponse, v1::CreateTokenResponse {
        token: "kwt_new".to_owned(),
        ..Default::default()
    };
    list_tokens: ListTokensRequest => ListTokensResponse, v1::ListTokensResponse {
        next_page_token: "more".to_owned(),
        ..Default::default()
    };
    revoke_token: RevokeTokenRequest => RevokeTokenResponse, v1::RevokeTokenResponse { revision: 8, ..Default::default() };
    get_keyring_status: GetKeyringStatusRequest => GetKeyringStatusResponse, Default::default();
    activate_keyring_key: ActivateKeyringKeyRequest => ActivateKeyringKeyResponse, Default::default();
    retire_keyring_key: RetireKeyringKeyRequest => RetireKeyringKeyResponse, Default::default();
    erase_account: EraseAccountRequest => EraseAccountResponse, Default::default();
    list_audit_events: ListAuditEventsRequest => ListAuditEventsResponse, Default::default();
    verify_audit: VerifyAuditRequest => VerifyAuditResponse, Default::default();
    list_webhooks: ListWebhooksRequest => ListWebhooksResponse, Default::default();
    test_webhook: TestWebhookRequest => TestWebhookResponse, Default::default();
    replay_webhook: ReplayWebhookRequest => ReplayWebhookResponse, Default::default();
    import_keys: ImportKeysRequest => ImportKeysResponse, Default::default();
    undo_import: UndoImportRequest => UndoImportResponse, Default::default();
    export_keys: ExportKeysRequest => ExportKeysResponse, Default::default();
}

/// A running service and its script.
pub(crate) struct Fake {
    pub(crate) script: Arc<Script>,
    pub(crate) running: Running,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_on(ANY).await
    }

    /// Starts on the address of an earlier service.
    pub(crate) async fn start_on(address: SocketAddr) -> Self {
        let script = Script::new();
        let router = Server::builder()
            .add_service(service(&script))
            .add_service(AdminServiceServer::new(Service(Arc::clone(&script))));
        let running = Running::serve_on(address, router).await;
        Self { script, running }
    }

    pub(crate) async fn start_tls(tls: ServerTlsConfig) -> Self {
        let script = Script::new();
        let mut server = Server::builder().tls_config(tls).unwrap();
        let running = Running::serve(server.add_service(service(&script))).await;
        Self { script, running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.running.address)
    }

    pub(crate) fn client(&self) -> Client {
        client([self.url()]).build().unwrap()
    }
}

pub(crate) fn service(script: &Arc<Script>) -> ApiKeyServiceServer<Service> {
    ApiKeyServiceServer::new(Service(Arc::clone(script)))
}

/// A client with a token, and with time limits for a busy machine.
pub(crate) fn client(urls: impl IntoIterator<Item = String>) -> Builder {
    Client::builder()
        .endpoints(urls)
        .token(Secret::new("kwt_test"))
        .timeout(PATIENCE)
        .change_timeout(PATIENCE)
}
