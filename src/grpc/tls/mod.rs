//! The listener's TLS: HTTP/2 alone, with a certificate that may be replaced while the service runs.
//! A new pair of files is used only if it is whole; otherwise the one in use stays, and a warning
//! says so once.

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

use files::{Files, Identities, Pair};
use keyward_core::key::Clock;
use keyward_ops::TlsMetrics;

pub use files::TlsError;
pub(super) use handshakes::handshakes;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What every connection is accepted with. Cloning one names the same certificate.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    metrics: TlsMetrics,
    follower: Arc<Follower>,
}

/// The certificate in use, for handshakes that begin now.
struct InUse(ArcSwap<CertifiedKey>);

/// Keeps the certificate in use up to date with its files.
struct Follower {
    files: Files,
    provider: Arc<CryptoProvider>,
    in_use: Arc<InUse>,
    seen: Mutex<Seen>,
    clock: Arc<dyn Clock>,
    metrics: TlsMetrics,
}

/// The files as they were seen.
struct Seen {
    /// When the certificate in use was read.
    good: Identities,
    /// When they could not be used, and whether that was told.
    bad: Option<(Identities, bool)>,
}

impl Seen {
    fn of(good: Identities) -> Self {
        Self { good, bad: None }
    }
}

impl Tls {
    /// Reads the certificate and its key, and says when it ends.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, that does not hold what it should, or does not go with the other.
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
        // Before they are read: a change in between is seen at the next look.
        let seen = Mutex::new(Seen::of(files.identity()));
        let Pair { pair, expires } = files.read(&provider)?;
        let in_use = Arc::new(InUse(ArcSwap::from_pointee(pair)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<InUse>::clone(&in_use));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let follower = Follower {
            files,
            provider,
            in_use,
            seen,
            clock,
            metrics: metrics.clone(),
        };
        follower.tell("TLS is on", expires);
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            metrics,
            follower: Arc::new(follower),
        })
    }

    /// Looks at the files again and again, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let follower = Arc::clone(&self.follower);
            // Reading files may block, and a stop does not wait for that.
            let snapshot = tokio::task::spawn_blocking(move || follower.look());
            tokio::select! {
                // One that panicked is followed by another.
                _ = snapshot => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

impl Follower {
    /// Uses what the files hold if they changed and are whole.
    fn look(&self) {
        let now = self.files.identity();
        let mut seen = self.seen.lock();
        if now == seen.good {
            seen.bad = None;
            return;
        }
        match self.files.read(&self.provider) {
            Ok(Pair { pair, expires }) => {
                self.in_use.0.store(Arc::new(pair));
                *seen = Seen::of(now);
                self.tell("a new TLS certificate is in use", expires);
            }
            Err(error) => match &mut seen.bad {
                Some((bad, told)) if *bad == now => {
                    if !std::mem::replace(told, true) {
                        tracing::warn!(%error, "the new TLS certificate is not used, the one before stays");
                    }
                }
                // One of the two files may be about to come: judged at the next look.
                _ => seen.bad = Some((now, false)),
            },
        }
    }

    /// Says which certificate is in use from now on, and warns if it has ended.
    fn tell(&self, what: &str, expires: i64) {
        self.metrics.expire_time.set(expires);
        let certificate = self.files.certificate.display();
        let until = OffsetDateTime::from_unix_timestamp(expires)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok())
            .unwrap_or_else(|| expires.to_string());
        if self.clock.wall().as_micros() / 1_000_000 > expires {
            tracing::warn!(%certificate, %until, "the TLS certificate has expired: clients refuse it");
        }
        tracing::info!(%certificate, %until, "{what}");
    }
}

impl ResolvesServerCert for InUse {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InUse")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.follower.files)
    }
}
