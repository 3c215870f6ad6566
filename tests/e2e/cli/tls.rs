//! The command line as a client of a service with TLS.

use std::path::Path;
use std::process::Command;

use keyward_testkit::{Authority, Identity, Process};

use super::harness::{alone, command, run};

/// A service with TLS, for these names, and a directory to call it from.
struct Secure {
    process: Process,
    authority: Authority,
    directory: tempfile::TempDir,
}

impl Secure {
    fn start(names: &[&str]) -> Self {
        Self::showing(|authority| authority.sign(names))
    }

    fn showing(signed: impl FnOnce(&Authority) -> Identity) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        signed(&authority).write(directory.path());
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
        let data = directory.path().join("keyward-data");
        let serve = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--tls-cert",
            "server.crt",
            "--tls-key",
            "server.key",
        ];
        let process = Process::start(command(directory.path(), &serve), &data);
        Self {
            process,
            authority,
            directory,
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn list(&self, more: &[&str]) -> Command {
        command(self.path(), &[&["token", "list"], more].concat())
    }
}

#[test]
fn a_named_endpoint_is_trusted_through_its_authority() {
    let service = Secure::start(&["localhost", "127.0.0.1"]);
    let https = format!("https://{}", service.process.grpc);
    let named = ["--endpoint", &https, "--ca-file", "ca.crt"];
    run(service.list(&named), "").done();
    let mut by_variable = service.list(&["--endpoint", &https]);
    by_variable.env("KEYWARD_CA_FILE", service.path().join("ca.crt"));
    run(by_variable, "").done();

    // The authorities of the system have not signed it, and neither has another one.
    let other = Authority::new();
    std::fs::write(service.path().join("other.crt"), other.pem()).unwrap();
    for more in [&[][..], &["--ca-file", "other.crt"]] {
        let more = [&["--endpoint", &https], more].concat();
        let err = run(service.list(&more), "").refused(1);
        assert!(err.contains("cannot connect to"), "{err}");
    }
    let err = run(
        service.list(&["--endpoint", &https, "--ca-file", "other.crt"]),
        "",
    )
    .refused(1);
    assert!(err.contains("--ca-file or KEYWARD_CA_FILE"), "{err}");

    for (file, expected) in [
        ("nowhere.crt", "nowhere.crt"),
        ("server.key", "holds no certificate"),
    ] {
        let err = run(service.list(&["--endpoint", &https, "--ca-file", file]), "").refused(1);
        assert!(err.contains(expected), "{err}");
    }
    let http = format!("http://{}", service.process.grpc);
    let err = run(service.list(&["--endpoint", &http]), "").refused(1);
    assert!(err.contains("one with TLS takes https://"), "{err}");
}

#[test]
fn the_service_of_the_local_settings_is_trusted_by_its_certificate() {
    // The name is not that of the address, and the file holds the authority's certificate as well.
    let service = Secure::start(&["keyward.example"]);
    let chain = service.path().join("server.crt");
    let mut text = std::fs::read_to_string(&chain).unwrap();
    text.push_str(service.authority.pem());
    std::fs::write(&chain, text).unwrap();
    let listen = service.process.grpc.to_string();
    let settings =
        format!("listen = '{listen}'\ntls_cert = 'server.crt'\ntls_key = 'server.key'\n");
    std::fs::write(service.path().join("keyward.toml"), settings).unwrap();
    run(service.list(&[]), "").done();
    run(service.list(&["--ca-file", "ca.crt"]), "").done();

    // Another certificate than the one that is shown.
    let stranger = Authority::new();
    std::fs::write(&chain, stranger.sign(&["keyward.example"]).certificate).unwrap();
    let err = run(service.list(&[]), "").refused(1);
    assert!(err.contains("certificate"), "{err}");
    run(service.list(&["--ca-file", "ca.crt"]), "").done();
}

#[test]
fn an_error_says_that_the_certificate_is_an_authority() {
    let service = Secure::showing(|authority| authority.sign_as_authority(&["127.0.0.1"]));
    let https = format!("https://{}", service.process.grpc);
    let named = ["--endpoint", &https, "--ca-file", "ca.crt"];
    let err = run(service.list(&named), "").refused(1);
    assert!(err.contains("CA:FALSE"), "{err}");
}

#[test]
fn plain_text_is_used_where_the_service_has_no_tls() {
    let service = super::harness::Service::start();
    let https = format!("https://{}", service.process.grpc);
    let err = service
        .call(&["token", "list", "--endpoint", &https], "")
        .refused(1);
    assert!(err.contains("cannot connect to https://"), "{err}");
    assert!(alone(&["--help"]).done().contains("tls-cert"));
}

#[test]
fn health_is_asked_without_a_token() {
    let mut service = Secure::start(&["localhost", "127.0.0.1"]);
    let https = format!("https://{}", service.process.grpc);
    let health = ["health", "--endpoint", &https, "--ca-file", "ca.crt"];
    std::fs::remove_file(service.path().join("keyward-data/admin.token")).unwrap();
    assert_eq!(
        run(command(service.path(), &health), "").done(),
        "status: SERVING\n"
    );
    let json = [&health[..], &["--output", "json"]].concat();
    let json = run(command(service.path(), &json), "").done();
    assert_eq!(json, "{\n  \"status\": \"SERVING\"\n}\n");
    assert!(service.process.stop().success());
    run(command(service.path(), &health), "").refused(1);
}

/// A server that accepts the connection and never completes the handshake does not block a command
/// for ever.
#[test]
fn an_endless_handshake_ends_at_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let https = format!("https://{}", silent.local_addr().unwrap());
    let err = alone(&["health", "--endpoint", &https, "--timeout", "1s"]).refused(1);
    assert!(err.contains("no answer within 1s"), "{err}");
    drop(silent);
}

#[test]
fn an_error_says_that_the_service_has_no_tls() {
    let plain = super::harness::Service::start();
    let https = format!("https://{}", plain.process.grpc);
    let err = plain.call(&["health", "--endpoint", &https], "").refused(1);
    assert!(err.contains("http://"), "{err}");
}

#[test]
fn an_invalid_port_is_refused() {
    for endpoint in [
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://127.0.0.1:",
        "https://[::1]:70000",
    ] {
        let err = alone(&["health", "--endpoint", endpoint]).refused(64);
        assert!(err.contains("takes a URL"), "{endpoint}: {err}");
    }
}
