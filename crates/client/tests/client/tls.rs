//! TLS: servers with and without a trusted certificate.

use std::time::Duration;

use keyward_client::{Client, ErrorKind, Secret, Verdict, VerifyRequest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::server::ServerTlsConfig;

use crate::fake::{Fake, PATIENCE};

/// A new authority's certificate, and the TLS settings of a server that it signed for `names`.
fn certificate_for(names: &[&str]) -> (String, ServerTlsConfig) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let identity = tonic::transport::Identity::from_pem(certificate.pem(), key.serialize_pem());
    (root, ServerTlsConfig::new().identity(identity))
}

/// Calls Verify with a client that trusts `authority`.
async fn verify(url: String, authority: Option<&str>) -> Result<Verdict, keyward_client::Error> {
    let directory = tempfile::tempdir().unwrap();
    let mut builder = Client::builder()
        .endpoint(url)
        .token(Secret::new("kwt_test"))
        .timeout(PATIENCE)
        .connect_timeout(PATIENCE);
    if let Some(pem) = authority {
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, pem).unwrap();
        builder = builder.ca_file(file);
    }
    let client = builder.build().unwrap();
    client.verify(VerifyRequest::new(Secret::new("kw_a"))).await
}

#[tokio::test]
async fn server_with_a_trusted_certificate_is_called() {
    let (root, tls) = certificate_for(&["localhost", "127.0.0.1"]);
    let fake = Fake::start_tls(tls).await;
    let port = fake.running.address.port();
    for host in ["localhost", "127.0.0.1"] {
        let verdict = verify(format!("https://{host}:{port}"), Some(&root)).await;
        assert!(
            matches!(verdict, Ok(Verdict::Valid(_))),
            "{host}: {verdict:?}"
        );
    }
    assert_eq!(fake.script.calls(), 2);
}

#[tokio::test]
async fn server_without_a_trusted_certificate_gets_no_call() {
    let (root, tls) = certificate_for(&["keyward.example"]);
    let fake = Fake::start_tls(tls).await;
    let (other, _) = certificate_for(&["localhost"]);
    let url = format!("https://localhost:{}", fake.running.address.port());
    for (authority, why) in [(&root, "name"), (&other, "certificate")] {
        let error = verify(url.clone(), Some(authority)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{why}: {error}");
        assert!(error.message.contains("certificate"), "{why}: {error}");
    }
    // A server without TLS gets no token either.
    let clear = Fake::start().await;
    let url = format!("https://localhost:{}", clear.running.address.port());
    let error = verify(url, Some(&root)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(fake.script.calls() + clear.script.calls(), 0);
}

/// Without `ca_file`, the system's authorities decide.
#[tokio::test]
async fn private_authority_is_unknown_to_the_system() {
    let (_, tls) = certificate_for(&["localhost"]);
    let fake = Fake::start_tls(tls).await;
    let url = format!("https://localhost:{}", fake.running.address.port());
    let built = Client::builder()
        .endpoint(url.clone())
        .token(Secret::new("kwt_test"))
        .build();
    match built {
        Ok(_) => {
            let error = verify(url, None).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        }
        // This machine has no authorities.
        Err(error) => assert!(error.to_string().contains("TLS"), "{error}"),
    }
    assert_eq!(fake.script.calls(), 0);
}

/// The endpoint is an address that the certificate does not name.
#[tokio::test]
async fn server_name_replaces_the_host_of_the_endpoint() {
    let (root, tls) = certificate_for(&["keyward.example"]);
    let fake = Fake::start_tls(tls).await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, root).unwrap();
    for (name, is_proven) in [("keyward.example", true), ("other.example", false)] {
        let client = Client::builder()
            .endpoint(format!("https://{}", fake.running.address))
            .token(Secret::new("kwt_test"))
            .timeout(PATIENCE)
            .ca_file(&ca_file)
            .server_name(name)
            .build()
            .unwrap();
        let verdict = client.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
        assert_eq!(verdict.is_ok(), is_proven, "{name}: {verdict:?}");
    }
}

/// The peer accepts TCP and never answers the handshake.
#[tokio::test]
async fn time_limit_covers_the_tls_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limit = Duration::from_millis(300);
    let (root, _) = certificate_for(&["127.0.0.1"]);
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, root).unwrap();
    let client = Client::builder()
        .endpoint(format!("https://{}", silent.local_addr().unwrap()))
        .token(Secret::new("kwt_test"))
        .timeout(limit)
        .change_timeout(limit)
        .connect_timeout(PATIENCE)
        .ca_file(ca_file)
        .build()
        .unwrap();
    let start = Instant::now();
    let verify = client.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
    let revoke = client.revoke(Default::default()).await;
    for error in [
        verify.unwrap_err(),
        revoke.unwrap_err(),
        client.health().await.unwrap_err(),
    ] {
        let is_expected = error.to_string().ends_with("no response within 300ms");
        assert!(is_expected, "{error}");
    }
    assert!(start.elapsed() < PATIENCE / 2);
}
