//! This client's own certificate. It is read again when its files change: then new connections replace the old
//! ones. Files that cannot be used change nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Identity;
use zeroize::Zeroizing;

use crate::BuildError;
use crate::balance::Balance;
use crate::endpoint::{ConnectOptions, connections};

/// The files are read at most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// The paths of a certificate with its chain, and of its key.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The content of the files, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CertificatePair {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl CertificateFiles {
    pub(crate) fn read(&self) -> Result<CertificatePair, BuildError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| BuildError::ClientCertificate(path.clone(), error))
        };
        let pair = CertificatePair {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?.into(),
        };
        for (path, text, marker) in [
            (
                &self.certificate,
                &pair.certificate,
                "-----BEGIN CERTIFICATE-----",
            ),
            (&self.key, &*pair.key, "PRIVATE KEY-----"),
        ] {
            // The transport says nothing about a file without it, or less.
            let has_it = text
                .windows(marker.len())
                .any(|part| part == marker.as_bytes());
            if !has_it {
                let none = format!("it has no line with {marker}");
                let error = io::Error::new(io::ErrorKind::InvalidData, none);
                return Err(BuildError::ClientCertificate(path.clone(), error));
            }
        }
        Ok(pair)
    }
}

impl CertificatePair {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &*self.key)
    }
}

/// Renews the connections when the files change.
pub(crate) struct CertificateSource {
    files: CertificateFiles,
    state: Mutex<State>,
}

struct State {
    options: ConnectOptions,
    last_read: Instant,
    /// Whether the log already says that the files are bad.
    is_logged: bool,
}

impl CertificateSource {
    /// Connections were made with `options`, which hold what `files` held.
    pub(crate) fn new(files: CertificateFiles, options: ConnectOptions) -> Self {
        Self {
            files,
            state: Mutex::new(State {
                options,
                last_read: Instant::now(),
                is_logged: false,
            }),
        }
    }

    /// Once per interval, one of the callers reads the files first.
    pub(crate) async fn renew(&self, balance: &Balance) {
        let is_due = {
            let mut state = self.state.lock();
            let is_due = state.last_read.elapsed() >= INTERVAL;
            if is_due {
                state.last_read = Instant::now();
            }
            is_due
        };
        if !is_due {
            return;
        }
        let files = self.files.clone();
        // After a panic the next call tries again.
        let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else {
            return;
        };
        let mut state = self.state.lock();
        match read.and_then(|pair| state.replace(pair, balance)) {
            Ok(has_changed) => {
                state.is_logged = false;
                if has_changed {
                    tracing::info!("the client certificate changed; new connections present it");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut state.is_logged, true) {
                    tracing::warn!(
                        %error,
                        "the client certificate cannot be used; the last one stays in use"
                    );
                }
            }
        }
    }
}

impl State {
    /// Connects all endpoints with `pair`, if it is another one. Returns whether it is.
    fn replace(&mut self, pair: CertificatePair, balance: &Balance) -> Result<bool, BuildError> {
        if self.options.certificate.as_ref() == Some(&pair) {
            return Ok(false);
        }
        let options = ConnectOptions {
            certificate: Some(pair),
            ..self.options.clone()
        };
        let connect = |url: &String| connections(url, &options);
        let urls = balance.endpoints().iter().map(|endpoint| &endpoint.url);
        let channels = urls.map(connect).collect::<Result<Vec<_>, _>>()?;
        for (endpoint, channel) in balance.endpoints().iter().zip(channels) {
            endpoint.reconnect(channel);
        }
        self.options = options;
        Ok(true)
    }
}
