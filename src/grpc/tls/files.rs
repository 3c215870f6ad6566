//! Reads the files of the certificate, its key and the clients' authorities, checks that they belong together,
//! and detects changed files. No error contains key material.

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
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}: cannot read {path:?}: {cause}. Check the path and its permissions")]
    Read {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The path does not name a regular file, or the file is too large.
    #[error("{setting}: {path:?} is not a regular file of at most 256 KiB. Name a PEM file")]
    Unsuitable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file has no certificate.
    #[error(
        "tls_cert: {0:?} contains no certificate. Name a PEM file with the service's certificate first, then its chain"
    )]
    NoCertificate(PathBuf),
    /// A certificate cannot be parsed.
    #[error("tls_cert: a certificate in {path:?} is damaged ({reason}). Replace the file")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// The file of the clients' authorities has no usable one.
    #[error(
        "tls_client_ca: {path:?} contains no usable authority ({reason}). Name a PEM file with the certificates of the authorities that sign client certificates"
    )]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Every user of the machine can read or change the key.
    #[error(
        "tls_key: every user of this machine can read or change {0:?}. Run `chmod o-rwx {0:?}`, or in Kubernetes set the volume's defaultMode to 0440"
    )]
    Exposed(PathBuf),
    /// The file has no usable private key.
    #[error(
        "tls_key: {0:?} contains no usable private key. Name a PEM file (PKCS#8, PKCS#1 or SEC1; RSA, ECDSA or Ed25519) without a password"
    )]
    NoKey(PathBuf),
    /// The key belongs to another certificate.
    #[error(
        "tls_key: the key in {key:?} does not belong to the first certificate in {certificate:?} (tls_cert), which must be the service's own. Install the two files that were created together"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
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
        let chain = certificates("tls_cert", &self.certificate)?
            .map_err(|error| self.damaged(error.to_string()))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.certificate.clone()));
        }
        let expires = expires(&chain[0]).map_err(|reason| self.damaged(reason))?;
        let pair =
            CertifiedKey::from_der(chain, self.private_key()?, provider).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                        certificate: self.certificate.clone(),
                        key: self.key.clone(),
                    },
                    rustls::Error::InvalidCertificate(error) => self.damaged(format!("{error:?}")),
                    _ => TlsError::NoKey(self.key.clone()),
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
        let path = || self.key.clone();
        let text = private_file::read(&self.key, MAX_FILE).map_err(|error| match error {
            PrivateFileError::Exposed => TlsError::Exposed(path()),
            PrivateFileError::NoFile | PrivateFileError::TooLong => TlsError::Unsuitable {
                setting: "tls_key",
                path: path(),
            },
            PrivateFileError::Read(cause) => TlsError::Read {
                setting: "tls_key",
                path: path(),
                cause,
            },
        })?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NoKey(path()))
    }

    fn damaged(&self, reason: String) -> TlsError {
        TlsError::Certificate {
            path: self.certificate.clone(),
            reason,
        }
    }
}

/// The file of the clients' authorities cannot be used.
pub(super) fn unusable(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::Authorities {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The certificates in a file. The inner error is that of a damaged one.
fn certificates(
    setting: &'static str,
    path: &Path,
) -> Result<Result<Vec<CertificateDer<'static>>, pem::Error>, TlsError> {
    let failed = |cause| TlsError::Read {
        setting,
        path: path.to_owned(),
        cause,
    };
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() || found.len() > MAX_FILE as u64 {
        return Err(TlsError::Unsuitable {
            setting,
            path: path.to_owned(),
        });
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
