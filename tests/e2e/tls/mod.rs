//! TLS of the real process: accepted and refused clients, bad certificates, a replaced certificate,
//! and endless handshakes.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Authority, Client, PATIENCE, Process, Program, connect, connect_tls, eventually, metric, now,
};
use raw::{Offer, open, shake};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod raw;

use crate::secure::Secure;
use crate::{BINARY, fresh_directory, serve};

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// With nobody who holds it up, a stop does not take the grace of ten seconds.
const PROMPT: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_valid_through_tls_and_plain_text_is_refused() {
    let place = Secure::new(&NAMES);
    let mut process = place.start();
    let client = place.client(&process).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    client.revoke(&id).await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);

    // In the clear nobody is answered, also if the token is right.
    let plain = Client::over(connect(process.grpc).await, Some(&process.token()));
    plain.verify(&key).await.unwrap_err();
    // An authority that did not sign, and a name that is not in the certificate.
    let other = Authority::new();
    connect_tls(process.grpc, other.pem()).await.unwrap_err();
    place.replace(&place.authority.sign(&["keyward.example"]));
    assert!(process.stop().success());
    let log = process.output();
    assert!(log.contains("TLS is on"), "{log}");
    assert_eq!(log.matches("keyward is ready").count(), 1, "{log}");
    process = place.start();
    let refused = connect_tls(process.grpc, place.authority.pem()).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("NotValidForName"), "{refused}");
    assert!(process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_http_2_is_negotiated_and_a_session_is_resumed() {
    let place = Secure::new(&NAMES);
    let process = place.start();
    let offer = Offer::new(place.authority.pem(), &[b"h2"]);
    let first = shake(process.grpc, &offer).await.unwrap();
    assert_eq!(first.protocol.as_deref(), Some(&b"h2"[..]));
    assert!(!first.resumed);
    assert!(shake(process.grpc, &offer).await.unwrap().resumed);
    let offer = Offer::new(place.authority.pem(), &[b"http/1.1"]);
    let refused = shake(process.grpc, &offer).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_without_a_restart_and_a_bad_one_is_not() {
    let place = Secure::new(&NAMES);
    let mut process = place.start();
    let client = place.client(&process).await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let shown = async |process: &Process| {
        let offer = Offer::new(place.authority.pem(), &[b"h2"]);
        shake(process.grpc, &offer).await.unwrap().certificate
    };
    let first = shown(&process).await;

    // A certificate without its key is not used, and said once.
    let second = place.authority.sign(&NAMES);
    std::fs::write(place.path("server.crt"), &second.certificate).unwrap();
    let kept = "cannot use the new TLS certificate; the current one stays in use";
    eventually("it says that it is not used", PATIENCE, async || {
        process.output().contains(kept)
    })
    .await;
    assert_eq!(shown(&process).await, first);

    place.replace(&second);
    eventually("the new one is shown", PATIENCE, async || {
        shown(&process).await != first
    })
    .await;
    let log = process.output();
    assert_eq!(log.matches(kept).count(), 1, "{log}");
    assert!(
        log.contains("does not belong to the first certificate"),
        "{log}"
    );
    assert!(log.contains("a new TLS certificate is in use"), "{log}");

    // The connection of before goes on.
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    let expires = "keyward_tls_certificate_expire_time_seconds";
    assert!(metric(process.http, expires).await.unwrap_or(0_i64) > 2_000_000_000);
    place.replace(&place.authority.sign_expired(&NAMES));
    eventually("the end of the newest is shown", PATIENCE, async || {
        metric(process.http, expires).await.unwrap_or(0_i64) < 1_100_000_000
    })
    .await;
    assert!(process.output().contains("has expired; clients refuse it"));
    assert!(process.stop().success());
}

/// Idle connections neither block other clients nor delay the stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_slow_no_other_client() {
    more_files();
    let place = Secure::new(&NAMES);
    let mut command = place.command();
    // One thread has room for half of them.
    command.args(["--workers", "1"]);
    let mut process = Process::start(command, &place.data());
    let silent = async |address: SocketAddr| TcpStream::connect(address).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..1_000 {
        held.push(silent(process.grpc).await);
    }
    let client = place.client(&process).await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let displaced = "keyward_tls_handshakes_total{outcome=\"displaced\"}";
    eventually("the oldest give way", PATIENCE, async || {
        metric(process.http, displaced).await.unwrap_or(0) >= 400
    })
    .await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    place.client(&process).await;

    // Those that stayed are given up in time.
    let timed_out = "keyward_tls_handshakes_total{outcome=\"timed_out\"}";
    eventually("the others take too long", PATIENCE, async || {
        metric(process.http, timed_out).await.unwrap_or(0) >= 400
    })
    .await;
    for _ in 0..300 {
        held.push(silent(process.grpc).await);
    }
    let begun = now();
    assert!(process.stop().success(), "{}", process.output());
    let took = begun.elapsed();
    assert!(took < PROMPT, "{took:?}");
}

/// Two connections without a complete preface: one sends nothing, the other sends half of it.
async fn rude(address: SocketAddr, offer: Option<&Offer>) -> Vec<Box<dyn Stream>> {
    let mut all: Vec<Box<dyn Stream>> = Vec::new();
    for said in ["", "PRI * HTTP/2"] {
        let mut stream: Box<dyn Stream> = match offer {
            Some(offer) => Box::new(open(address, offer).await.unwrap()),
            None => Box::new(TcpStream::connect(address).await.unwrap()),
        };
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        all.push(stream);
    }
    all
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_preface_is_closed_and_delays_no_stop() {
    let place = Secure::new(&NAMES);
    let offer = Offer::new(place.authority.pem(), &[b"h2"]);
    let (_directory, data) = fresh_directory();
    let plain = serve(&data);
    for (mut process, offer) in [(place.start(), Some(&offer)), (plain, None)] {
        let polite = match offer {
            Some(_) => place.client(&process).await,
            None => Client::new(process.grpc, Some(&process.token())).await,
        };
        let begun = now();
        for mut stream in rude(process.grpc, offer).await {
            let mut said = Vec::new();
            // However it ends.
            let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
            assert!(ended.is_ok(), "it is still open");
        }
        let waited = begun.elapsed();
        assert!(waited > Duration::from_secs(5), "{waited:?}");
        // Who has greeted may be as silent, and is served on.
        polite.issue("42", "").await.unwrap();

        let held = rude(process.grpc, offer).await;
        let begun = now();
        assert!(process.stop().success(), "{}", process.output());
        let took = begun.elapsed();
        assert!(took < PROMPT, "{took:?}");
        drop(held);
    }
}

/// The thousand connections take more files than some systems give a process at first.
fn more_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Starts with these files and expects it to end: what it said.
fn refused(command: Command) -> String {
    let (status, said) = Process::run_to_end(command);
    assert_eq!(status.code(), Some(1), "{said}");
    let complaints: Vec<_> = said.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(complaints.len(), 1, "{said}");
    assert!(!said.contains("PRIVATE KEY"), "{said}");
    complaints[0].to_owned()
}

#[test]
fn a_bad_pair_is_refused_in_one_line_that_says_why() {
    let place = Secure::new(&NAMES);
    let (crt, key) = (place.path("server.crt"), place.path("server.key"));
    let good = place.authority.sign(&NAMES);
    let other = place.authority.sign(&NAMES);
    let locked = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let broken = good.certificate.replacen("MII", "MIA", 1);
    let cases: [(&str, &str, &[&str]); 7] = [
        (
            "",
            &good.key,
            &["server.crt", "tls_cert", "contains no certificate"],
        ),
        (
            "nothing",
            &good.key,
            &["server.crt", "contains no certificate"],
        ),
        (&broken, &good.key, &["server.crt", "damaged"]),
        (
            &good.certificate,
            "",
            &["server.key", "tls_key", "no usable private key"],
        ),
        (
            &good.certificate,
            &locked,
            &["server.key", "without a password"],
        ),
        (
            &good.certificate,
            &good.certificate,
            &["no usable private key"],
        ),
        (
            &good.certificate,
            &other.key,
            &["does not belong", "server.crt", "server.key"],
        ),
    ];
    for (certificate, private, expected) in cases {
        std::fs::write(&crt, certificate).unwrap();
        std::fs::write(&key, private).unwrap();
        let said = refused(place.command());
        for part in expected {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    place.replace(&good);
    mode(&key, 0o604);
    let said = refused(place.command());
    assert!(
        said.contains("chmod o-rwx") && said.contains("tls_key"),
        "{said}"
    );
    mode(&key, 0o640);
    std::fs::remove_file(&crt).unwrap();
    let said = refused(place.command());
    assert!(
        said.contains("server.crt") && said.contains("No such file"),
        "{said}"
    );
    // None of these starts left anything behind.
    assert!(!place.data().exists());

    place.replace(&place.authority.sign_expired(&NAMES));
    let process = place.start();
    let log = process.output();
    assert!(log.contains("WARN") && log.contains("has expired"), "{log}");
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Also if gRPC has a Unix socket, which needs no TLS.
#[tokio::test(flavor = "multi_thread")]
async fn the_json_port_has_the_certificate_by_http_1_and_2() {
    for has_socket in [false, true] {
        let place = Secure::new(&NAMES);
        let socket = place.directory().join("keyward.sock");
        let grpc = match has_socket {
            true => format!("unix:{}", socket.display()),
            false => "127.0.0.1:0".to_owned(),
        };
        let settings = |command: &mut Command| {
            command
                .env_clear()
                .current_dir(place.directory())
                .env("KEYWARD_LISTEN", &grpc)
                .env("KEYWARD_TLS_CERT", "server.crt")
                .env("KEYWARD_TLS_KEY", "server.key");
        };
        let mut command = Command::new(BINARY);
        settings(&mut command);
        command.args([
            "--rest-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ]);
        let program = Program::start("keyward", command, "keyward is ready: gRPC on ");
        let (_, ports) = program.ready().split_once("JSON on ").unwrap();
        let port = ports
            .split(',')
            .next()
            .unwrap()
            .parse::<SocketAddr>()
            .unwrap()
            .port();
        if has_socket {
            let mut command = Command::new(BINARY);
            settings(&mut command);
            let issued = command.args(["issue", "--account", "42"]).output().unwrap();
            assert!(issued.status.success(), "{issued:?}");
        }
        std::fs::write(place.directory().join("ca.pem"), place.authority.pem()).unwrap();
        for (version, url, expected) in [
            (
                "--http1.1",
                format!("https://localhost:{port}/v1/tokens"),
                "1.1 401",
            ),
            (
                "--http2",
                format!("https://localhost:{port}/v1/tokens"),
                "2 401",
            ),
            (
                "--http1.1",
                format!("http://localhost:{port}/v1/tokens"),
                "0 000",
            ),
        ] {
            let mut curl = Command::new("curl");
            curl.current_dir(place.directory())
                .args([
                    "--silent",
                    "--noproxy",
                    "*",
                    "--max-time",
                    "60",
                    "--cacert",
                    "ca.pem",
                ])
                .args([
                    "--output",
                    "answer",
                    "--write-out",
                    "%{http_version} %{http_code}",
                ])
                .args([version, &url]);
            let said = curl.output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&said.stdout),
                expected,
                "{url}: {said:?}"
            );
        }
    }
}
