//! Reads the files of the certificate, its key and the clients' authorities, checks that they belong together,
//! and detects changed files. No error contains key material.

use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use keyward_crypto::private_file::{self, PrivateFileError};

/// The maximum size of a file, in bytes: far more than a key or a chain of certificates needs.
const MAX_FILE: usize = 256 << 10;

/// Why the certificate cannot be used: what is wrong, in which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(format!("cannot set up TLS: {error}"))
    }
}

/// The paths of the files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate of the service, and its chain.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authorities of client certificates; `None`: clients have none.
    pub client_ca: Option<PathBuf>,
}

/// What the files hold.
pub(super) struct Content {
    /// The certificate with its key.
    pub(super) pair: CertifiedKey,
    /// The time of its expiry, in seconds since the Unix epoch.
    pub(super) expires: i64,
    /// The authorities of client certificates.
    pub(super) authorities: Option<Vec<CertificateDer<'static>>>,
}

/// Distinguishes a file from its predecessor: device, inode, size, modification and change time.
type FileVersion = (u64, u64, u64, (i64, i64), (i64, i64));
/// The versions of the files; `None` for a missing one.
pub(super) type FileVersions = [Option<FileVersion>; 3];

impl TlsFiles {
    /// The current versions of the files. Symbolic links are followed.
    pub(super) fn versions(&self) -> FileVersions {
        let paths = [
            Some(&self.certificate),
            Some(&self.key),
            self.client_ca.as_ref(),
        ];
        paths.map(|path| {
            let found = fs::metadata(path?).ok()?;
            let modified = (found.mtime(), found.mtime_nsec());
            let changed = (found.ctime(), found.ctime_nsec());
            Some((found.dev(), found.ino(), found.size(), modified, changed))
        })
    }

    /// Reads the files and checks that they belong together.
    pub(super) fn read(&self, provider: &CryptoProvider) -> Result<Content, TlsError> {
        let chain =
            certificates("tls_cert", &self.certificate)?.map_err(|error| self.damaged(error))?;
        if chain.is_empty() {
            return Err(TlsError(format!(
                "tls_cert: {:?} contains no certificate. Name a PEM file with the service's certificate first, then its chain",
                self.certificate
            )));
        }
        let expires = expires(&chain[0]).map_err(|reason| self.damaged(reason))?;
        let pair =
            CertifiedKey::from_der(chain, self.private_key()?, provider).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => TlsError(format!(
                        "tls_key: the key in {:?} does not belong to the first certificate in {:?} (tls_cert), which must be the service's own. Install the two files that were created together",
                        self.key, self.certificate
                    )),
                    rustls::Error::InvalidCertificate(error) => self.damaged(format!("{error:?}")),
                    _ => self.no_key(),
                }
            })?;
        let authorities = match &self.client_ca {
            Some(path) => {
                let read = certificates("tls_client_ca", path)?;
                Some(read.map_err(|error| unusable(path, error))?)
            }
            None => None,
        };
        Ok(Content {
            pair,
            expires,
            authorities,
        })
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let path = &self.key;
        let text = private_file::read(path, MAX_FILE).map_err(|error| match error {
            PrivateFileError::Exposed => TlsError(format!(
                "tls_key: every user of this machine can read or change {path:?}. Run `chmod o-rwx {path:?}`, or in Kubernetes set the volume's defaultMode to 0440"
            )),
            PrivateFileError::NoFile | PrivateFileError::TooLong => unsuitable("tls_key", path),
            PrivateFileError::Read(cause) => unreadable("tls_key", path, &cause),
        })?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|_| self.no_key())
    }

    fn no_key(&self) -> TlsError {
        TlsError(format!(
            "tls_key: {:?} contains no usable private key. Name a PEM file (PKCS#8, PKCS#1 or SEC1; RSA, ECDSA or Ed25519) without a password",
            self.key
        ))
    }

    fn damaged(&self, reason: impl Display) -> TlsError {
        let path = &self.certificate;
        TlsError(format!(
            "tls_cert: a certificate in {path:?} is damaged ({reason}). Replace the file"
        ))
    }
}

fn unreadable(setting: &str, path: &Path, cause: &io::Error) -> TlsError {
    TlsError(format!(
        "{setting}: cannot read {path:?}: {cause}. Check the path and its permissions"
    ))
}

fn unsuitable(setting: &str, path: &Path) -> TlsError {
    TlsError(format!(
        "{setting}: {path:?} is not a regular file of at most 256 KiB. Name a PEM file"
    ))
}

/// The file of the clients' authorities cannot be used.
pub(super) fn unusable(path: &Path, reason: impl Display) -> TlsError {
    TlsError(format!(
        "tls_client_ca: {path:?} contains no usable authority ({reason}). Name a PEM file with the certificates of the authorities that sign client certificates"
    ))
}

/// The certificates in a file. The inner error is that of a damaged one.
fn certificates(
    setting: &str,
    path: &Path,
) -> Result<Result<Vec<CertificateDer<'static>>, pem::Error>, TlsError> {
    let failed = |cause| unreadable(setting, path, &cause);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > MAX_FILE as u64 {
        return Err(unsuitable(setting, path));
    }
    let text = fs::read(path).map_err(failed)?;
    Ok(CertificateDer::pem_slice_iter(&text).collect())
}

/// The time of the certificate's expiry, in seconds since the Unix epoch.
fn expires(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let read = x509_parser::parse_x509_certificate(certificate);
    let (_, certificate) = read.map_err(|error| error.to_string())?;
    Ok(certificate.validity().not_after.timestamp())
}
