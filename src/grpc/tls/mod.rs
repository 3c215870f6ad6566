//! TLS of both ports: HTTP/2, and HTTP/1.1 for requests of plain HTTP, with a certificate that can be
//! replaced while the service runs. Clients can have certificates, too.
//! New files are used only if they are valid. Otherwise the current ones stay in use, and one warning is
//! logged.

mod clients;
mod files;
mod handshakes;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::identity::ClientCertificate;
use files::{Content, FileVersions};
use keyward_core::key::Clock;
use keyward_guard::LogLimit;
use keyward_ops::TlsMetrics;

pub use files::{TlsError, TlsFiles};
pub(super) use handshakes::handshakes;

/// The interval between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Accepts TLS connections. All clones share one certificate.
#[derive(Clone)]
pub struct Tls {
    metrics: TlsMetrics,
    reloader: Arc<Reloader>,
}

/// Accepts the connections of both doors while the clients' authorities stay the same. Its sessions end with
/// it, because a resumed session brings a certificate that is not verified again.
struct Acceptors {
    grpc: TlsAcceptor,
    http: TlsAcceptor,
    authorities: Option<Vec<CertificateDer<'static>>>,
    /// Ends when the authorities are replaced.
    replaced: CancellationToken,
}

/// The current certificate, used for new handshakes.
struct Current(ArcSwap<CertifiedKey>);

/// Reloads the current certificate and the clients' authorities when their files change.
struct Reloader {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    acceptors: ArcSwap<Acceptors>,
    seen: Mutex<SeenVersions>,
    clock: Arc<dyn Clock>,
    metrics: TlsMetrics,
    refused: LogLimit,
}

/// The versions of the files that were read.
struct SeenVersions {
    /// The version of the current certificate.
    good: FileVersions,
    /// A version that cannot be used, and whether a warning was logged for it.
    bad: Option<(FileVersions, bool)>,
}

impl SeenVersions {
    fn new(good: FileVersions) -> Self {
        Self { good, bad: None }
    }
}

impl Tls {
    /// Reads the files, and logs when the certificate expires.
    ///
    /// # Errors
    ///
    /// A file cannot be read or has the wrong content, or the key does not belong to the certificate.
    pub fn load(
        files: TlsFiles,
        clock: Arc<dyn Clock>,
        metrics: TlsMetrics,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        // Taken before the files are read, so that the next check finds a change in between.
        let seen = Mutex::new(SeenVersions::new(files.versions()));
        let Content {
            pair,
            expires,
            authorities,
        } = files.read(&provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let acceptors = acceptors(&files, authorities, &provider, &current)?;
        let reloader = Reloader {
            files,
            provider,
            current,
            acceptors: ArcSwap::from_pointee(acceptors),
            seen,
            clock,
            metrics: metrics.clone(),
            refused: LogLimit::default(),
        };
        reloader.report("TLS is on", expires);
        Ok(Self {
            metrics,
            reloader: Arc::new(reloader),
        })
    }

    /// Performs the handshake of a connection to `door`, and reads the client's certificate.
    async fn accept(
        &self,
        stream: TcpStream,
        door: &Door,
    ) -> io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
        let acceptors = self.reloader.acceptors.load_full();
        let acceptor = match door {
            Door::Grpc => &acceptors.grpc,
            Door::Http(_) => &acceptors.http,
        };
        let accepted = acceptor.accept(stream).await;
        let stream = accepted.inspect_err(|error| {
            if let Some(reason) = clients::refusal(error)
                && self.reloader.refused.is_due()
            {
                tracing::warn!(%reason, "refused a client certificate");
            }
        })?;
        let presented = stream.get_ref().1.peer_certificates();
        let certificate = presented.and_then(<[_]>::first);
        let certificate = certificate.map(|certificate| ClientCertificate {
            certificate: clients::read(certificate),
            replaced: acceptors.replaced.clone(),
        });
        Ok((stream, certificate))
    }

    /// Reloads the certificate when its files change, until `stop`.
    pub async fn reload(self, stop: CancellationToken) {
        while let Some(()) = stop.run_until_cancelled(sleep(CHECK_INTERVAL)).await {
            let reloader = Arc::clone(&self.reloader);
            // Reading files can block, and a stop must not wait for it.
            let check = tokio::task::spawn_blocking(move || reloader.check());
            // After a panic the next check runs as usual.
            stop.run_until_cancelled(check).await;
        }
    }
}

impl Reloader {
    /// Uses the files if they have changed and are valid.
    fn check(&self) {
        let now = self.files.versions();
        let mut seen = self.seen.lock();
        if now == seen.good {
            seen.bad = None;
            return;
        }
        match self.replace() {
            Ok(()) => *seen = SeenVersions::new(now),
            Err(error) => match &mut seen.bad {
                Some((bad, logged)) if *bad == now => {
                    if !std::mem::replace(logged, true) {
                        tracing::warn!(%error, "cannot use the new TLS certificate; the current one stays in use");
                    }
                }
                // The other file may not be written yet: the next check decides.
                _ => seen.bad = Some((now, false)),
            },
        }
    }

    /// Uses the files if they are valid.
    fn replace(&self) -> Result<(), TlsError> {
        let Content {
            pair,
            expires,
            authorities,
        } = self.files.read(&self.provider)?;
        let before = self.acceptors.load();
        if authorities != before.authorities {
            let next = acceptors(&self.files, authorities, &self.provider, &self.current)?;
            self.acceptors.store(Arc::new(next));
            before.replaced.cancel();
            tracing::info!("new authorities of client certificates are in use");
        }
        if pair.cert != self.current.0.load().cert {
            self.current.0.store(Arc::new(pair));
            self.report("a new TLS certificate is in use", expires);
        }
        Ok(())
    }

    /// Logs the certificate and its expiry, and warns if it has expired.
    fn report(&self, message: &str, expires: i64) {
        self.metrics.expire_time.set(expires);
        let certificate = self.files.certificate.display();
        let until = OffsetDateTime::from_unix_timestamp(expires)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_else(|| expires.to_string());
        if self.clock.wall().as_micros() / 1_000_000 > expires {
            tracing::warn!(%certificate, %until, "the TLS certificate has expired; clients refuse it");
        }
        tracing::info!(%certificate, %until, "{message}");
    }
}

fn acceptors(
    files: &TlsFiles,
    authorities: Option<Vec<CertificateDer<'static>>>,
    provider: &Arc<CryptoProvider>,
    current: &Arc<Current>,
) -> Result<Acceptors, TlsError> {
    let verifier = match (&authorities, &files.client_ca) {
        (Some(authorities), Some(path)) => clients::verifier(authorities, path, provider)?,
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::<Current>::clone(current));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut http = config.clone();
    http.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Acceptors {
        grpc: TlsAcceptor::from(Arc::new(config)),
        http: TlsAcceptor::from(Arc::new(http)),
        authorities,
        replaced: CancellationToken::new(),
    })
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.reloader.files)
    }
}
