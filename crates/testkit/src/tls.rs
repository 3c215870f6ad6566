//! A certificate authority of a test's own, and the certificates of servers that it signs.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A certificate authority that nobody knows but who is told.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A server's certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The files that [`write`] made.
pub(crate) struct Files {
    /// The authority's certificate, for clients.
    pub(crate) authority: PathBuf,
    /// The server's certificate.
    pub(crate) certificate: PathBuf,
    /// The server's private key.
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Draws one.
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

    /// Its certificate in PEM, for clients.
    pub fn pem(&self) -> &str {
        &self.certificate
    }

    /// A certificate for these names and addresses, good for longer than any test.
    pub fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |_| {})
    }

    /// The same, but it has ended long ago.
    pub fn sign_expired(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.not_after = date_time_ymd(2001, 9, 9);
        })
    }

    /// The same, but the certificate says that it is an authority's, as those do that `openssl req -x509`
    /// makes unless it is told otherwise.
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
    /// What the files `{name}.crt` and `{name}.key` in `directory` hold.
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

    /// Writes both into `directory`, as `server.crt` and `server.key`, which others cannot read. Files
    /// that are there are replaced, each at once.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let certificate = directory.join("server.crt");
        let key = directory.join("server.key");
        put(&certificate, &self.certificate, 0o644);
        put(&key, &self.key, 0o600);
        (certificate, key)
    }
}

/// Puts a file with this mode in the place of the one that is there.
fn put(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file can be written");
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(&new, mode).expect("a file's mode can be set");
    std::fs::rename(&new, path).expect("a file can be replaced");
}

/// Draws an authority and a certificate for these names and addresses, and writes them into
/// `directory`.
pub(crate) fn write(directory: &Path, names: &[&str]) -> Files {
    let authority = Authority::new();
    write_signed(directory, authority.pem(), &authority.sign(names))
}

/// Writes the certificate of an authority and what it signed into `directory`.
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
