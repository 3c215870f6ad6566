//! The command line as a client of a service with TLS.

use std::path::Path;
use std::process::Command;

use keyward_testkit::{Authority, Process};

use super::harness::{command, run};
use crate::secure::Secure;

/// A running service with TLS.
struct Service {
    process: Process,
    files: Secure,
}

impl Service {
    fn start(files: Secure) -> Self {
        let process = files.start();
        Self { process, files }
    }

    fn path(&self) -> &Path {
        self.files.directory()
    }

    fn list(&self, more: &[&str]) -> Command {
        command(self.path(), &[&["token", "list"], more].concat())
    }
}

#[test]
fn named_endpoint_is_trusted_by_its_authority() {
    let service = Service::start(Secure::new(&["localhost", "127.0.0.1"]));
    let https = format!("https://{}", service.process.grpc);
    let named = ["--endpoint", &https, "--ca-file", "ca.crt"];
    run(service.list(&named), "").done();
    let mut by_variable = service.list(&["--endpoint", &https]);
    by_variable.env("KEYWARD_CA_FILE", service.path().join("ca.crt"));
    run(by_variable, "").done();

    // Neither the system's authorities nor another one signed the certificate.
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
    assert!(err.contains("try https://"), "{err}");
    assert!(!err.contains("check that the service is running"), "{err}");
}

#[test]
fn local_service_is_trusted_by_its_certificate() {
    // The certificate does not name the address, and the file also holds the authority's certificate.
    let service = Service::start(Secure::new(&["keyward.example"]));
    let chain = service.path().join("server.crt");
    let mut text = std::fs::read_to_string(&chain).unwrap();
    text.push_str(service.files.authority.pem());
    std::fs::write(&chain, text).unwrap();
    let listen = service.process.grpc.to_string();
    let settings =
        format!("listen = '{listen}'\ntls_cert = 'server.crt'\ntls_key = 'server.key'\n");
    std::fs::write(service.path().join("keyward.toml"), settings).unwrap();
    run(service.list(&[]), "").done();
    run(service.list(&["--ca-file", "ca.crt"]), "").done();

    // The file now holds another certificate than the service presents.
    let stranger = Authority::new();
    std::fs::write(&chain, stranger.sign(&["keyward.example"]).certificate).unwrap();
    let err = run(service.list(&[]), "").refused(1);
    assert!(err.contains("certificate"), "{err}");
    run(service.list(&["--ca-file", "ca.crt"]), "").done();
}

#[test]
fn ca_certificate_as_server_certificate_is_explained() {
    let service = Service::start(Secure::showing(|authority| {
        authority.sign_as_authority(&["127.0.0.1"])
    }));
    let https = format!("https://{}", service.process.grpc);
    let named = ["--endpoint", &https, "--ca-file", "ca.crt"];
    let err = run(service.list(&named), "").refused(1);
    assert!(err.contains("CA:FALSE"), "{err}");
}

#[test]
fn service_without_tls_is_explained() {
    let service = super::harness::Service::start();
    let https = format!("https://{}", service.process.grpc);
    for verb in [&["token", "list"][..], &["health"]] {
        let arguments = [verb, &["--endpoint", &https]].concat();
        let err = service.call(&arguments, "").refused(1);
        assert!(err.contains("cannot connect to https://"), "{err}");
        assert!(err.contains("use http://"), "{err}");
        assert!(!err.contains("https:// if it uses TLS"), "{err}");
    }
}

#[test]
fn health_needs_no_token() {
    let mut service = Service::start(Secure::new(&["localhost", "127.0.0.1"]));
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

#[test]
fn a_client_certificate_replaces_the_token() {
    let files = Secure::new(&["localhost", "127.0.0.1"]);
    let mut start = files.command();
    start.args(["--tls-client-ca", "ca.crt"]);
    let process = Process::start(start, &files.data());
    let https = format!("https://{}", process.grpc);
    let by = |arguments: &[&str], more: &[&str]| {
        let endpoint = ["--endpoint", &https, "--ca-file", "ca.crt"];
        run(
            command(files.directory(), &[arguments, &endpoint, more].concat()),
            "",
        )
    };
    let name = "spiffe://corp/billing";
    let creating = [
        "token", "create", "billing", "--role", "reader", "--san", name,
    ];
    let made = by(&creating, &["--output", "json", "--ttl", "90d"]).done();
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let caller = &made["caller_token"];
    assert_eq!(
        (&made["token"], &caller["san"]),
        (&serde_json::Value::Null, &name.into())
    );
    assert!(caller["expire_time"].is_string());
    assert!(by(&["token", "list"], &[]).done().contains(name));
    let taken = by(&creating, &[]).refused(64);
    assert!(
        taken.contains("--san") && taken.contains("another caller"),
        "{taken}"
    );
    by(&creating, &["--into", "x.token"]).refused(64);

    let own = files.authority.sign_client(&[name], None);
    own.write_as(files.directory(), "billing");
    let pair = [
        "--client-certificate",
        "billing.crt",
        "--client-key",
        "billing.key",
    ];
    by(&["list"], &pair).done();
    let mut by_variables = command(files.directory(), &["list", "--ca-file", "ca.crt"]);
    by_variables
        .env("KEYWARD_ENDPOINT", &https)
        .env("KEYWARD_CLIENT_CERTIFICATE", "billing.crt")
        .env("KEYWARD_CLIENT_KEY", "billing.key");
    run(by_variables, "").done();
    // It is a reader, while the token that is named beside it has every role.
    let denied = by(&["token", "list"], &pair).refused(1);
    assert!(denied.contains("admin"), "{denied}");
    let both = [&pair[..], &["--token-file", "keyward-data/admin.token"]].concat();
    by(&["token", "list"], &both).done();
    let half = by(&["list"], &pair[..2]).refused(64);
    assert!(half.contains("need each other"), "{half}");
    let clear = ["list", "--endpoint", "http://127.0.0.1:1"];
    let clear = run(
        command(files.directory(), &[&clear[..], &pair].concat()),
        "",
    )
    .refused(64);
    assert!(clear.contains("use https://"), "{clear}");

    let id = caller["token_id"].as_str().unwrap();
    by(&["token", "revoke", id], &[]).done();
    let refused = by(&["list"], &pair).refused(1);
    assert!(
        refused.contains("CERTIFICATE_INVALID") && refused.contains("billing.crt"),
        "{refused}"
    );
    let other = Authority::new().sign_client(&[name], None);
    other.write_as(files.directory(), "billing");
    by(&["list"], &pair).refused(1);
    let log = process.output();
    assert!(log.contains("refused a client certificate"), "{log}");
}
