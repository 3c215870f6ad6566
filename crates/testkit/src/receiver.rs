//! A receiver of webhooks: an HTTP server that keeps what it gets and answers as a test wants.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::deadline::now;
use crate::server::{listen, run_on_thread};
use crate::tls::Identity;

/// The secret of the webhooks of tests.
pub const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How a receiver answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// With this status and an empty body.
    Status(u16),
    /// With these header lines and this body after the status line.
    Answer(String),
    /// With status 200 and a body without end.
    Endless,
    /// With status 200 after this time, and a body that comes slowly and has no end.
    Slow(Duration),
    /// Not at all; the connection stays open.
    Silence,
    /// It closes the connection.
    Close,
}

/// A message that was received.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it arrived.
    pub at: Instant,
    /// The request line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Message {
    /// The value of a header.
    ///
    /// # Panics
    ///
    /// There is no such header.
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().expect("the header is there").1
    }

    /// The `webhook-id`.
    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// The body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }

    /// The type of the event, and the id of its key.
    pub fn about(&self) -> (String, String) {
        let json = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&json["type"]), text(&json["data"]["key_id"]))
    }

    /// Whether one of the signatures is the one that the specification asks for.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let key = secret.strip_prefix("whsec_").expect("a secret");
        let key = STANDARD.decode(key).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any key fits");
        for part in [
            self.id(),
            ".",
            self.header("webhook-timestamp"),
            ".",
            &self.body,
        ] {
            mac.update(part.as_bytes());
        }
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let mut given = self.header("webhook-signature").split(' ');
        given.any(|signature| signature == expected)
    }
}

/// A running receiver.
pub struct Receiver {
    /// Its address.
    pub address: SocketAddr,
    scheme: &'static str,
    messages: Arc<Mutex<Vec<Message>>>,
    reaction: Arc<Mutex<Reaction>>,
}

impl Receiver {
    /// Starts a receiver that answers with status 204.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Starts a receiver with TLS.
    pub fn start_tls(identity: &Identity) -> Self {
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        keyward::system::choose_cryptography();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain, key).expect("they fit");
        Self::with(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn with(tls: Option<TlsAcceptor>) -> Self {
        let (listener, address) = listen();
        let receiver = Self {
            address,
            scheme: if tls.is_some() { "https" } else { "http" },
            messages: Arc::default(),
            reaction: Arc::new(Mutex::new(Reaction::Status(204))),
        };
        let (messages, reaction) = (
            Arc::clone(&receiver.messages),
            Arc::clone(&receiver.reaction),
        );
        run_on_thread(move || async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let (messages, reaction) = (Arc::clone(&messages), Arc::clone(&reaction));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => drop(serve(stream, &messages, &reaction).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(serve(stream, &messages, &reaction).await);
                            }
                        }
                    }
                });
            }
        });
        receiver
    }

    /// The URL of the receiver.
    pub fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    /// The value of `webhooks` for a webhook that sends all events here. Puts its secret into `directory`.
    pub fn webhook(&self, name: &str, directory: &Path) -> String {
        let file = directory.join(format!("{name}.whsec"));
        write_secret(&file, WEBHOOK_SECRET);
        let (url, file) = (self.url(), file.display());
        format!(r#"[{{name = "{name}", url = "{url}", secret_file = "{file}"}}]"#)
    }

    /// Answers like this from now on.
    pub fn react(&self, reaction: Reaction) {
        *self.reaction.lock() = reaction;
    }

    /// What was received.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().clone()
    }
}

/// Serves one request.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    messages: &Mutex<Vec<Message>>,
    reaction: &Mutex<Reaction>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let message = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        if let Some(message) = message(&bytes) {
            break message;
        }
    };
    let reaction = reaction.lock().clone();
    // Received before it is answered: what was answered is here.
    messages.lock().push(message);
    match reaction {
        Reaction::Status(status) => {
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        }
        Reaction::Answer(answer) => stream.write_all(answer.as_bytes()).await?,
        Reaction::Endless => {
            let head = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        }
        Reaction::Slow(pause) => {
            tokio::time::sleep(pause).await;
            let head = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
            while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Reaction::Silence => tokio::time::sleep(Duration::from_secs(3_600)).await,
        Reaction::Close => {}
    }
    stream.shutdown().await
}

/// The message in a whole request.
fn message(bytes: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let message = Message {
        at: now(),
        head: head.to_owned(),
        body: body.to_owned(),
    };
    let length: usize = message.header("content-length").parse().ok()?;
    (body.len() == length).then_some(message)
}

/// Writes a file with secrets that others cannot read.
pub fn write_secret(file: &Path, secrets: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(file, secrets).expect("the file can be written");
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file, mode).expect("its mode can be set");
}
