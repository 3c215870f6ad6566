//! A fake Keyward in memory. It keeps the promises of the proto that
//! the bot relies on, and fails on request.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1;
use keyward_proto::v1::api_key_service_server::{ApiKeyService, ApiKeyServiceServer};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) all: Vec<(v1::ApiKey, String)>,
    pub(crate) issues: usize,
    pub(crate) revokes: usize,
    /// Every call fails.
    pub(crate) is_down: bool,
    /// Nobody sees another key: the limit of the bot's token is used up.
    pub(crate) is_busy: bool,
    /// A Revoke is committed, but not proven.
    pub(crate) is_unproven: bool,
    /// How long each Revoke takes.
    pub(crate) delay: Duration,
}

#[derive(Default)]
pub(crate) struct Keyward {
    pub(crate) keys: Mutex<Keys>,
}

struct Service(Arc<Keyward>);

impl Keyward {
    pub(crate) async fn start() -> (Arc<Self>, String) {
        let keyward = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = ApiKeyServiceServer::new(Service(Arc::clone(&keyward)));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (keyward, url)
    }

    /// The live keys of an account.
    pub(crate) fn live(&self, account: &str) -> Vec<String> {
        let keys = self.keys.lock();
        let own = keys.all.iter().filter(|(key, _)| key.account_id == account);
        own.filter(|(key, _)| key.revoke_time.is_none())
            .map(|(_, text)| text.clone())
            .collect()
    }

    pub(crate) fn count(&self) -> (usize, usize, usize) {
        let keys = self.keys.lock();
        (keys.all.len(), keys.issues, keys.revokes)
    }
}

fn refuse(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "keyward", []);
    Status::with_error_details(code, "refused", details)
}

impl Keys {
    fn create(&mut self, account: &str, name: &str) -> usize {
        let number = self.all.len();
        let text = format!("kw_{number:04}{}", "canary".repeat(8).get(..45).unwrap());
        self.all.push((
            v1::ApiKey {
                key_id: uuid::Uuid::from_u128(0x7000_0000 + number as u128).to_string(),
                account_id: account.to_owned(),
                name: name.to_owned(),
                hint: text.get(..7).unwrap().to_owned(),
                recoverable: true,
                state: v1::State::Active.into(),
                ..Default::default()
            },
            text,
        ));
        number
    }

    fn revoke(&mut self, key_id: &str, grace: i64) -> Result<v1::RevokeResponse, Status> {
        let at = self.all.iter().position(|(key, _)| key.key_id == key_id);
        let at = at.ok_or_else(|| refuse(Code::NotFound, "KEY_NOT_FOUND"))?;
        if self.all[at].0.revoke_time.is_none() {
            let old = self.all[at].0.clone();
            let successor = self.create(&old.account_id, &old.name);
            let replaced_by = self.all[successor].0.key_id.clone();
            let seconds = 1_795_602_600 + grace + i64::try_from(at).unwrap();
            let key = &mut self.all[at].0;
            if grace == 0 {
                key.state = v1::State::Revoked.into();
            }
            key.replaced_by = replaced_by;
            key.revoke_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
        }
        let revoked = self.all[at].0.clone();
        let mut all = self.all.iter();
        let successor = all.find(|(key, _)| key.key_id == revoked.replaced_by);
        let (replacement, text) = successor.cloned().unwrap();
        let is_live = replacement.revoke_time.is_none();
        Ok(v1::RevokeResponse {
            revoke_time: revoked.revoke_time,
            revoked: vec![revoked],
            revoked_count: 1,
            replacement: Some(replacement),
            api_key: if is_live { text } else { String::new() },
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl ApiKeyService for Service {
    type WatchInvalidationsStream =
        tokio_stream::Empty<Result<v1::WatchInvalidationsResponse, Status>>;

    async fn watch_invalidations(
        &self,
        _: Request<Streaming<v1::WatchInvalidationsRequest>>,
    ) -> Result<Response<Self::WatchInvalidationsStream>, Status> {
        Err(Status::unimplemented("the bot opens no stream"))
    }

    async fn issue(
        &self,
        request: Request<v1::IssueRequest>,
    ) -> Result<Response<v1::IssueResponse>, Status> {
        let v1::IssueRequest {
            account_id, name, ..
        } = request.into_inner();
        let mut keys = self.0.keys.lock();
        keys.issues += 1;
        if keys.is_down {
            return Err(refuse(Code::Unavailable, "STORE_UNAVAILABLE"));
        }
        let mut all = keys.all.iter();
        let live = all.position(|(key, _)| {
            key.account_id == account_id && key.name == name && key.revoke_time.is_none()
        });
        let created = live.is_none();
        let at = live.unwrap_or_else(|| keys.create(&account_id, &name));
        let (key, api_key) = keys.all[at].clone();
        if keys.is_busy {
            return Err(refuse(Code::ResourceExhausted, "REVEALS_EXHAUSTED"));
        }
        Ok(Response::new(v1::IssueResponse {
            key: Some(key),
            api_key,
            created,
            predecessor: None,
        }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        let request = request.into_inner();
        assert!(request.replace);
        let (is_down, is_busy, is_unproven, delay) = {
            let mut keys = self.0.keys.lock();
            keys.revokes += 1;
            (keys.is_down, keys.is_busy, keys.is_unproven, keys.delay)
        };
        if is_down {
            return Err(refuse(Code::Unavailable, "STORE_UNAVAILABLE"));
        }
        tokio::time::sleep(delay).await;
        let grace = request.grace.map_or(0, |grace| grace.seconds);
        let revoked = self.0.keys.lock().revoke(&request.key_id, grace)?;
        match (is_unproven, is_busy) {
            (true, _) => Err(refuse(Code::Unavailable, "REVOKE_UNCONFIRMED")),
            (false, true) => Err(refuse(Code::ResourceExhausted, "REVEALS_EXHAUSTED")),
            (false, false) => Ok(Response::new(revoked)),
        }
    }

    async fn verify(
        &self,
        _: Request<v1::VerifyRequest>,
    ) -> Result<Response<v1::VerifyResponse>, Status> {
        Err(refuse(Code::PermissionDenied, "ROLE_REQUIRED"))
    }

    async fn verify_batch(
        &self,
        _: Request<v1::VerifyBatchRequest>,
    ) -> Result<Response<v1::VerifyBatchResponse>, Status> {
        Err(refuse(Code::PermissionDenied, "ROLE_REQUIRED"))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        Err(refuse(Code::PermissionDenied, "ROLE_REQUIRED"))
    }

    async fn list(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        Err(refuse(Code::PermissionDenied, "ROLE_REQUIRED"))
    }

    async fn update(
        &self,
        _: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        Err(refuse(Code::PermissionDenied, "ROLE_REQUIRED"))
    }
}
