//! TLS: a server that proves who it is, and those that do not.

use keyward_client::{Client, ErrorKind, Secret, Verdict, VerifyRequest};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tonic::transport::server::ServerTlsConfig;

use crate::fake::{Fake, PATIENCE};

/// An authority of the test's own: its certificate, and a server's that it signed.
fn draw(names: &[&str]) -> (String, ServerTlsConfig) {
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

/// What a client that trusts `authority` gets from an address.
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
async fn a_server_proves_who_it_is() {
    let (root, tls) = draw(&["localhost", "127.0.0.1"]);
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
async fn one_that_does_not_is_told_nothing() {
    let (root, tls) = draw(&["keyward.example"]);
    let fake = Fake::start_tls(tls).await;
    let (other, _) = draw(&["localhost"]);
    let url = format!("https://localhost:{}", fake.running.address.port());
    for (authority, why) in [(&root, "name"), (&other, "certificate")] {
        let error = verify(url.clone(), Some(authority)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{why}: {error}");
        assert!(error.message.contains("certificate"), "{why}: {error}");
    }
    // Whoever speaks no TLS at all gets no token either.
    let clear = Fake::start().await;
    let url = format!("https://localhost:{}", clear.running.address.port());
    let error = verify(url, Some(&root)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(fake.script.calls() + clear.script.calls(), 0);
}

/// `ca_file` stands instead of the system's authorities; without it they decide.
#[tokio::test]
async fn the_systems_authorities_do_not_know_a_private_one() {
    let (_, tls) = draw(&["localhost"]);
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
        // A machine without any.
        Err(error) => assert!(error.to_string().contains("TLS"), "{error}"),
    }
    assert_eq!(fake.script.calls(), 0);
}
