//! Callers with a client certificate instead of a token: over real TLS, as with a proxy or a mesh.

mod doors;
mod refused;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_client as client;
use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::requests::*;
use keyward_testkit::{
    Authority, Client, Faults, Identity, Local, PATIENCE, connect_tls_as, eventually, now, refused,
};
use tonic::Code;

const NAME: &str = "spiffe://corp/billing";

/// A service with TLS that trusts client certificates of an authority.
struct World {
    local: Local,
    faults: Arc<Faults>,
    authority: Authority,
    files: tempfile::TempDir,
    /// A client with every role, by its token.
    admin: Client,
}

async fn world() -> World {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let (certificate, key) = authority.sign(&["127.0.0.1"]).write(files.path());
    let ca = files.path().join("clients.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let settings = |settings: &mut keyward::config::Settings| {
        settings.tls_cert = Some(certificate);
        settings.tls_key = Some(key);
        settings.tls_client_ca = Some(ca);
    };
    let (local, faults) = Local::start_stalling(settings).await;
    let address = local.app.grpc_address();
    let channel = connect_tls_as(address, authority.pem(), None).await;
    let admin = Client::over(channel.unwrap(), Some(&local.token));
    World {
        local,
        faults,
        authority,
        files,
        admin,
    }
}

impl World {
    /// A client that presents `own`, and sends `token`.
    async fn present(&self, own: &Identity, token: Option<&str>) -> Client {
        let (address, trusted) = (self.local.app.grpc_address(), self.authority.pem());
        let channel = connect_tls_as(address, trusted, Some(own)).await;
        Client::over(channel.unwrap(), token)
    }

    /// A client whose certificate has these names.
    async fn named(&self, names: &[&str]) -> Client {
        self.present(&self.authority.sign_client(names, None), None)
            .await
    }

    /// Creates the caller with this name.
    async fn caller(&self, san: &str, roles: &[Role]) -> v1::CallerToken {
        let made = self.admin.send(with_san(san, roles)).await.unwrap();
        assert_eq!(made.token, "", "it has no secret");
        made.caller_token.unwrap()
    }

    async fn revoke(&self, caller: &v1::CallerToken) {
        let request = revoking_token(&caller.token_id);
        self.admin.send(request).await.unwrap();
    }

    async fn key(&self) -> String {
        self.admin.issue("42", "").await.unwrap().1
    }

    /// Moves both clocks forward, and waits for the next heartbeat.
    async fn pass(&self, seconds: i64) {
        self.local.clock.step_boot(seconds);
        self.local.clock.step_wall(seconds);
        let is_fresh = async || self.admin.verify("").await.is_ok();
        eventually("the instance is fresh", PATIENCE, is_fresh).await;
    }

    /// Keyward's own client with this certificate in files.
    fn library(&self, own: &Identity) -> client::Client {
        let (certificate, key) = own.write_as(self.files.path(), "own");
        let ca = self.files.path().join("server-ca.pem");
        std::fs::write(&ca, self.authority.pem()).unwrap();
        client::Client::builder()
            .endpoint(format!("https://{}", self.local.app.grpc_address()))
            .ca_file(ca)
            .client_certificate(certificate, key)
            .build()
            .unwrap()
    }
}

fn with_san(san: &str, roles: &[Role]) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        san: san.to_owned(),
        ..creating_token("billing", roles)
    }
}

fn is_refused<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>, said: &str) {
    let status = outcome.unwrap_err();
    assert!(status.message().contains(said), "{status}");
    refused(
        Err::<T, _>(status),
        Code::Unauthenticated,
        "CERTIFICATE_INVALID",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_needs_no_token_with_a_certificate() {
    let world = world().await;
    let key = world.key().await;
    let caller = world.caller(NAME, &[Role::Verifier]).await;
    assert_eq!((caller.san.as_str(), caller.expire_time), (NAME, None));
    let listed = world.admin.send(v1::ListTokensRequest::default()).await;
    assert_eq!(listed.unwrap().caller_tokens[1], caller);

    let billing = world.named(&[NAME]).await;
    for _ in 0..3 {
        assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    }
    let outcome = billing.issue("43", "").await;
    refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
    // Without a certificate the port is what it was.
    let (address, trusted) = (world.local.app.grpc_address(), world.authority.pem());
    let channel = connect_tls_as(address, trusted, None).await.unwrap();
    let outcome = Client::over(channel, None).verify(&key).await;
    refused(outcome, Code::Unauthenticated, "TOKEN_MISSING");
}

/// Names that belong to no caller are soon read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_known_reads_no_name_again() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let billing = world.named(&["other.example", NAME]).await;
    assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    world.local.clock.step_boot(1);
    world.faults.record.close();
    let batch = v1::VerifyBatchRequest {
        requests: vec![verifying(&key)],
    };
    let answer = tokio::time::timeout(PATIENCE / 2, billing.send(batch)).await;
    let verdict = answer.unwrap().unwrap().responses[0].verdict();
    assert_eq!(verdict, Verdict::Valid);
    world.faults.record.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_one_form_in_requests_and_in_certificates() {
    let world = world().await;
    let key = world.key().await;
    let caller = world
        .caller("Billing.Corp.Example", &[Role::Verifier])
        .await;
    assert_eq!(caller.san, "billing.corp.example");
    for own in ["billing.corp.example", "BILLING.corp.example"] {
        let billing = world.named(&["*.corp.example", own]).await;
        assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    }
    let again = with_san("billing.CORP.example", &[Role::Reader]);
    keyward_testkit::invalid(world.admin.send(again).await, "san");
    for wrong in ["*.corp.example", "a b", "spiffe://", &"x".repeat(600)] {
        let request = with_san(wrong, &[Role::Reader]);
        keyward_testkit::invalid(world.admin.send(request).await, "san");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_decides_alone_if_it_is_sent() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let own = world.authority.sign_client(&[NAME], None);
    let issuer = world.admin.token("issuer", &[Role::Issuer]).await.unwrap();
    let both = world.present(&own, Some(&issuer)).await;
    both.issue("43", "").await.unwrap();
    refused(
        both.verify(&key).await,
        Code::PermissionDenied,
        "ROLE_REQUIRED",
    );
    for wrong in ["", "x", "kwt_invented"] {
        // The certificate does not help a wrong token, also not after it was used.
        let channel = world.present(&own, None).await.channel;
        let by_certificate = Client::over(channel.clone(), None);
        for _ in 0..2 {
            assert_eq!(by_certificate.verify(&key).await.unwrap(), Verdict::Valid);
            let outcome = Client::over(channel.clone(), Some(wrong))
                .verify(&key)
                .await;
            refused(outcome, Code::Unauthenticated, "TOKEN_INVALID");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_caller_is_refused_on_its_open_connection_and_can_return() {
    let world = world().await;
    let key = world.key().await;
    let billing = world.named(&[NAME]).await;
    is_refused(billing.verify(&key).await, "belongs to a caller");
    for _ in 0..3 {
        let caller = world.caller(NAME, &[Role::Verifier]).await;
        for _ in 0..3 {
            assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
        }
        world.revoke(&caller).await;
        is_refused(billing.verify(&key).await, "belongs to a caller");
    }
}

/// No call that begins after RevokeToken has returned is accepted, on any connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_accepted_after_a_revoke_returned() {
    let world = world().await;
    let key = world.key().await;
    for _ in 0..5 {
        let caller = world.caller(NAME, &[Role::Verifier]).await;
        let mut busy = Vec::new();
        for _ in 0..4 {
            let (billing, key) = (world.named(&[NAME]).await, key.clone());
            busy.push(tokio::spawn(async move {
                let mut accepted = Vec::new();
                loop {
                    let start = now();
                    match billing.verify(&key).await {
                        Ok(verdict) => {
                            assert_eq!(verdict, Verdict::Valid);
                            accepted.push(start);
                        }
                        Err(status) => {
                            is_refused(Err::<(), _>(status), "belongs to a caller");
                            break accepted;
                        }
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.revoke(&caller).await;
        let returned: Instant = now();
        for calls in busy {
            let accepted = calls.await.unwrap();
            assert!(!accepted.is_empty());
            assert!(accepted.iter().all(|start| *start < returned));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_caller_is_refused_on_its_open_connection() {
    let world = world().await;
    let key = world.key().await;
    let request = v1::CreateTokenRequest {
        ttl: seconds(3_600),
        ..with_san(NAME, &[Role::Verifier])
    };
    world.admin.send(request).await.unwrap();
    let billing = world.named(&[NAME]).await;
    world.pass(3_590).await;
    assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    world.pass(20).await;
    is_refused(billing.verify(&key).await, "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_is_refused_on_its_open_connection() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let hour = Duration::from_secs(3_600);
    let own = world.authority.sign_client_for(&[NAME], hour);
    let billing = world.present(&own, None).await;
    assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    world.pass(3_500).await;
    for _ in 0..3 {
        assert_eq!(billing.verify(&key).await.unwrap(), Verdict::Valid);
    }
    world.pass(200).await;
    for _ in 0..3 {
        is_refused(billing.verify(&key).await, "expired");
    }
    // Its caller lives, and another certificate proves it.
    let renewed = world.named(&[NAME]).await;
    assert_eq!(renewed.verify(&key).await.unwrap(), Verdict::Valid);
}

/// The connections end that the former authority vouched for.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_authority_vouches_for_nobody() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let former = world.named(&[NAME]).await;
    assert_eq!(former.verify(&key).await.unwrap(), Verdict::Valid);
    let next = Authority::new();
    std::fs::write(world.files.path().join("clients.pem"), next.pem()).unwrap();
    let is_ended = async || former.verify(&key).await.is_err();
    eventually("the former connection ends", PATIENCE, is_ended).await;
    former.verify(&key).await.unwrap_err();
    let renewed = world.present(&next.sign_client(&[NAME], None), None).await;
    assert_eq!(renewed.verify(&key).await.unwrap(), Verdict::Valid);
    // Connections without a certificate stay.
    assert_eq!(world.admin.verify(&key).await.unwrap(), Verdict::Valid);
}
