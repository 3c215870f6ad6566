//! A private certificate authority, and the server certificates that it signs.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::deadline::unix_time;

/// A private certificate authority. Only clients that get its certificate trust it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A server certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The files that [`write`] created.
pub(crate) struct Files {
    /// The authority's certificate, for clients.
    pub(crate) authority: PathBuf,
    /// The server's certificate.
    pub(crate) certificate: PathBuf,
    /// The server's private key.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Creates an authority.
    #[expect(clippy::new_without_default, reason = "two of them are never the same")]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be drawn");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Keyward's tests");
        let root = params.self_signed(&key).expect("an authority signs itself");
        Self {
            certificate: root.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The authority's certificate in PEM, for clients.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for these names and addresses that remains valid for any test.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |_| {})
    }

    /// Signs an expired certificate.
    pub fn sign_expired(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.not_after = date_time_ymd(2001, 9, 9);
        })
    }

    /// Signs a certificate that expires in `life`.
    pub fn sign_for(&self, names: &[&str], life: Duration) -> Identity {
        self.sign_with(names, |params| {
            let now = Duration::from_secs(unix_time().unsigned_abs());
            params.not_after = (SystemTime::UNIX_EPOCH + now + life).into();
        })
    }

    /// Signs a certificate that is marked as an authority, as `openssl req -x509` does by default.
    pub fn sign_as_authority(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        })
    }

    fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("they are names");
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be drawn");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the authority signs");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads the files `{name}.crt` and `{name}.key` in `directory`.
    pub fn read(directory: &Path, name: &str) -> Self {
        let read = |ending| {
            let path = directory.join(format!("{name}.{ending}"));
            std::fs::read_to_string(path).expect("there is a certificate and its key")
        };
        Self {
            certificate: read("crt"),
            key: read("key"),
        }
    }

    /// Writes `server.crt` and `server.key` to `directory`. Other users cannot read them. Existing
    /// files are replaced atomically.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let certificate = directory.join("server.crt");
        let key = directory.join("server.key");
        put(&certificate, &self.certificate, 0o644);
        put(&key, &self.key, 0o600);
        (certificate, key)
    }
}

/// Replaces a file atomically, with this mode.
fn put(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file can be written");
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&new, mode).expect("a file's mode can be set");
    std::fs::rename(&new, path).expect("a file can be replaced");
}

/// Creates an authority and a certificate for these names and addresses, and writes them to
/// `directory`.
pub(crate) fn write(directory: &Path, names: &[&str]) -> Files {
    let authority = Authority::new();
    write_signed(directory, authority.pem(), &authority.sign(names))
}

/// Writes an authority's certificate and a signed certificate to `directory`.
pub(crate) fn write_signed(directory: &Path, authority: &str, identity: &Identity) -> Files {
    let path = directory.join("ca.crt");
    put(&path, authority, 0o644);
    let (certificate, key) = identity.write(directory);
    Files {
        authority: path,
        certificate,
        key,
    }
}
