//! The files of the certificate and its key: read, checked against each other, and told apart from
//! those that were read before. No error holds anything of the key.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use keyward_crypto::private_file::{self, PrivateFileError};

/// No certificate with its chain, and no key, comes near this many bytes.
const MAX_FILE: usize = 256 << 10;

/// Why the listener's certificate cannot be used. Each says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {path:?}, which {setting} names ({cause}): check the path and its rights")]
    Read {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file is too long, or is none.
    #[error("{path:?}, which {setting} names, is no file in PEM of at most 256 KiB")]
    NoFile {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// No certificate in the file.
    #[error(
        "{0:?}, which tls_cert names, holds no certificate: it takes PEM, the service's own certificate first"
    )]
    NoCertificate(PathBuf),
    /// A certificate that cannot be read.
    #[error(
        "a certificate in {path:?}, which tls_cert names, is damaged ({reason}): put the file there anew"
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every user of the machine can read or change the key.
    #[error(
        "{0:?}, which tls_key names, can be read or changed by every user of this machine: run `chmod o-rwx {0:?}`, or in Kubernetes set the volume's defaultMode to 0440"
    )]
    Exposed(PathBuf),
    /// No private key in the file.
    #[error(
        "{0:?}, which tls_key names, holds no private key that can be used: it takes PEM (PKCS#8, PKCS#1 or SEC1; RSA, ECDSA or Ed25519) without a password"
    )]
    NoKey(PathBuf),
    /// The key is another certificate's.
    #[error(
        "the key in {key:?} (tls_key) does not belong to the first certificate in {certificate:?} (tls_cert), which must be the service's own: put both there as they were made together"
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The two files, by the paths of the settings.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What was read: the pair, and when the certificate ends, in seconds since the Unix epoch.
pub(super) struct Pair {
    pub(super) pair: CertifiedKey,
    pub(super) expires: i64,
}

/// What tells a file from the one that was there before: device, inode, size and both its times.
type Identity = (u64, u64, u64, (i64, i64), (i64, i64));
/// That of the certificate and that of the key; `None` for a file that is not there.
pub(super) type Identities = [Option<Identity>; 2];

impl Files {
    /// What both files are now. Links are followed.
    pub(super) fn identity(&self) -> Identities {
        [&self.certificate, &self.key].map(|path| {
            let found = fs::metadata(path).ok()?;
            let modified = (found.mtime(), found.mtime_nsec());
            let changed = (found.ctime(), found.ctime_nsec());
            Some((found.dev(), found.ino(), found.size(), modified, changed))
        })
    }

    /// Reads and checks both.
    pub(super) fn read(&self, provider: &CryptoProvider) -> Result<Pair, TlsError> {
        let chain = self.chain()?;
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
        Ok(Pair { pair, expires })
    }

    /// The certificates, at least one.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let path = &self.certificate;
        let failed = |cause| TlsError::Read {
            setting: "tls_cert",
            path: path.clone(),
            cause,
        };
        let found = fs::metadata(path).map_err(failed)?;
        if !found.is_file() || found.len() > MAX_FILE as u64 {
            return Err(TlsError::NoFile {
                setting: "tls_cert",
                path: path.clone(),
            });
        }
        let text = fs::read(path).map_err(failed)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| self.damaged(error.to_string()))?;
        match chain.is_empty() {
            true => Err(TlsError::NoCertificate(path.clone())),
            false => Ok(chain),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let path = || self.key.clone();
        let text = private_file::read(&self.key, MAX_FILE).map_err(|error| match error {
            PrivateFileError::Exposed => TlsError::Exposed(path()),
            PrivateFileError::NoFile | PrivateFileError::TooLong => TlsError::NoFile {
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

/// When the certificate ends, in seconds since the Unix epoch.
fn expires(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let read = x509_parser::parse_x509_certificate(certificate);
    let (_, certificate) = read.map_err(|error| error.to_string())?;
    Ok(certificate.validity().not_after.timestamp())
}
