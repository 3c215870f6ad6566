//! TLS of both ports: HTTP/2, and HTTP/1.1 for requests of plain HTTP, with a certificate that can be
//! replaced while the service runs.
//! A new pair of files is used only if it is valid. Otherwise the current certificate stays in use,
//! and one warning is logged.

mod files;
mod handshakes;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use files::{FileVersions, Files, Pair};
use keyward_core::key::Clock;
use keyward_ops::TlsMetrics;

pub use files::TlsError;
pub(super) use handshakes::handshakes;

/// The interval between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Accepts TLS connections. All clones share one certificate.
#[derive(Clone)]
pub struct Tls {
    grpc: TlsAcceptor,
    http: TlsAcceptor,
    metrics: TlsMetrics,
    reloader: Arc<Reloader>,
}

/// The current certificate, used for new handshakes.
struct Current(ArcSwap<CertifiedKey>);

/// Reloads the current certificate when its files change.
struct Reloader {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    seen: Mutex<SeenVersions>,
    clock: Arc<dyn Clock>,
    metrics: TlsMetrics,
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
    /// Reads the certificate and its key, and logs when the certificate expires.
    ///
    /// # Errors
    ///
    /// A file cannot be read or has the wrong content, or the key does not belong to the certificate.
    pub fn load(
        certificate: &Path,
        key: &Path,
        clock: Arc<dyn Clock>,
        metrics: TlsMetrics,
    ) -> Result<Self, TlsError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let provider = Arc::new(ring::default_provider());
        // Taken before the files are read, so that the next check finds a change in between.
        let seen = Mutex::new(SeenVersions::new(files.versions()));
        let Pair { pair, expires } = files.read(&provider)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(pair)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut http = config.clone();
        http.alpn_protocols.push(b"http/1.1".to_vec());
        let reloader = Reloader {
            files,
            provider,
            current,
            seen,
            clock,
            metrics: metrics.clone(),
        };
        reloader.report("TLS is on", expires);
        Ok(Self {
            grpc: TlsAcceptor::from(Arc::new(config)),
            http: TlsAcceptor::from(Arc::new(http)),
            metrics,
            reloader: Arc::new(reloader),
        })
    }

    /// Accepts the connections of a door.
    fn acceptor(&self, door: &Door) -> &TlsAcceptor {
        match door {
            Door::Grpc => &self.grpc,
            Door::Http(_) => &self.http,
        }
    }

    /// Reloads the certificate when its files change, until `stop`.
    pub async fn reload(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let reloader = Arc::clone(&self.reloader);
            // Reading files can block, and a stop must not wait for it.
            let check = tokio::task::spawn_blocking(move || reloader.check());
            tokio::select! {
                // After a panic the next check runs as usual.
                _ = check => {}
                () = stop.cancelled() => return,
            }
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
        match self.files.read(&self.provider) {
            Ok(Pair { pair, expires }) => {
                self.current.0.store(Arc::new(pair));
                *seen = SeenVersions::new(now);
                self.report("a new TLS certificate is in use", expires);
            }
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
