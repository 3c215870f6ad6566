//! Wrong settings and their error texts.

use std::time::Duration;

use keyward_client::{BuildError, Builder, Client, Secret};

fn good() -> Builder {
    Client::builder()
        .endpoint("http://127.0.0.1:1")
        .token(Secret::new("kwt_canary"))
}

fn refused(builder: Builder) -> String {
    builder.build().unwrap_err().to_string()
}

#[tokio::test]
async fn wrong_setting_is_named_without_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("empty"), "\n").unwrap();
    std::fs::write(path("two"), "kwt_canary kwt_canary").unwrap();
    std::fs::write(path("large"), "x".repeat(1 << 20)).unwrap();
    std::fs::write(path("bytes"), [0xff, 0xfe]).unwrap();
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nMIICANARY\n-----END {kind}-----\n");
    std::fs::write(path("cert"), pem("CERTIFICATE")).unwrap();
    std::fs::write(path("key"), pem("PRIVATE KEY")).unwrap();
    let none = || Client::builder().endpoint("http://127.0.0.1:1");
    for (builder, part) in [
        (Client::builder(), "no endpoint"),
        (none(), "either token or token_file"),
        (good().token_file(path("two")), "either token or token_file"),
        (good().token(Secret::new("kwt_canary x")), "printable ASCII"),
        (none().token_file(path("missing")), "missing"),
        (none().token_file(path("empty")), "one token"),
        (none().token_file(path("two")), "one token"),
        (none().token_file(path("large")), "one token"),
        (none().token_file(path("bytes")), "bytes"),
        (good().endpoint("keyward"), "keyward"),
        (good().endpoint("http://keyward:1"), "https://"),
        (good().endpoint("http://127.0.0.1:1,"), "is empty"),
        (Client::builder().endpoint(" \n"), "is empty"),
        (good().without_token(), "either token or token_file"),
        (good().ca_file(path("missing")), "missing"),
        (good().ca_file(path("two")), "no certificate"),
        (
            good().client_certificate(path("missing"), path("missing")),
            "missing",
        ),
        (
            good().client_certificate(path("cert"), path("two")),
            "PRIVATE KEY",
        ),
        (
            good().client_certificate(path("two"), path("key")),
            "BEGIN CERTIFICATE",
        ),
        (
            good().client_certificate(path("cert"), path("key")),
            "use https://",
        ),
        (
            Client::builder()
                .endpoint("https://127.0.0.1:1")
                .client_certificate(path("cert"), path("key")),
            "TLS cannot be set up",
        ),
        (good().timeout(Duration::ZERO), "timeout"),
        (good().change_timeout(Duration::MAX), "change_timeout"),
        (good().connect_timeout(Duration::ZERO), "connect_timeout"),
    ] {
        let shown = format!("{builder:?}");
        let why = refused(builder);
        assert!(why.contains(part), "{part}: {why}");
        assert!(
            !why.contains("canary") && !shown.contains("canary"),
            "{why} {shown}"
        );
    }
    let client = good().endpoint("http://keyward:1").insecure(true).build();
    let shown = format!("{:?}", client.unwrap());
    assert!(
        shown.contains("http://keyward:1") && !shown.contains("canary"),
        "{shown}"
    );
}

#[test]
fn build_outside_a_runtime_is_an_error() {
    assert!(matches!(good().build(), Err(BuildError::NoRuntime)));
}
