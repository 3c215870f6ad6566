//! A private certificate authority, and the server certificates that it signs.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::deadline::unix_time;

/// A private certificate authority. Only clients that get its certificate trust it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// What is wrong with a client certificate.
#[derive(Clone, Copy, Debug)]
pub enum ClientFlaw {
    /// It is expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// Only servers may use it.
    ServerOnly,
    /// It is an authority.
    Authority,
}

/// A certificate and its private key, in PEM.
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
            params.not_after = in_time(life).into();
        })
    }

    /// Signs a certificate that is marked as an authority, as `openssl req -x509` does by default.
    pub fn sign_as_authority(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        })
    }

    /// Signs a client's certificate with these URIs and DNS names, and with a common name.
    pub fn sign_client(&self, names: &[&str], flaw: Option<ClientFlaw>) -> Identity {
        self.sign_with(&[], |params| {
            of_client(params, names);
            match flaw {
                None => {}
                Some(ClientFlaw::Expired) => params.not_after = date_time_ymd(2001, 9, 9),
                Some(ClientFlaw::NotYetValid) => params.not_before = date_time_ymd(3000, 1, 1),
                Some(ClientFlaw::ServerOnly) => {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                }
                Some(ClientFlaw::Authority) => {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }
            }
        })
    }

    /// Signs a client's certificate that expires in `life`.
    pub fn sign_client_for(&self, names: &[&str], life: Duration) -> Identity {
        self.sign_with(&[], |params| {
            of_client(params, names);
            params.not_after = in_time(life).into();
        })
    }

    /// A client's certificate that vouches for itself.
    pub fn self_signed_client(names: &[&str]) -> Identity {
        let key = KeyPair::generate().expect("a key can be drawn");
        let mut params = CertificateParams::default();
        of_client(&mut params, names);
        let certificate = params.self_signed(&key).expect("it signs itself");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
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

fn in_time(life: Duration) -> SystemTime {
    let now = Duration::from_secs(unix_time().unsigned_abs());
    SystemTime::UNIX_EPOCH + now + life
}

/// Makes it the certificate of a client with these URIs and DNS names, and with a common name. `URI=` and
/// `DNS=` before a name say what it is.
fn of_client(params: &mut CertificateParams, names: &[&str]) {
    let name = |name: &&str| {
        let ascii = |text: &str| text.try_into().expect("it is ASCII");
        match name.split_once('=') {
            Some(("URI", text)) => SanType::URI(ascii(text)),
            Some(("DNS", text)) => SanType::DnsName(ascii(text)),
            _ if name.contains(':') => SanType::URI(ascii(name)),
            _ => SanType::DnsName(ascii(name)),
        }
    };
    params.subject_alt_names = names.iter().map(name).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, "common.example");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
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

    /// Writes `{name}.crt` and `{name}.key` to `directory`, as [`Self::write`] does.
    pub fn write_as(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = directory.join(format!("{name}.crt"));
        let key = directory.join(format!("{name}.key"));
        put(&certificate, &self.certificate, 0o644);
        put(&key, &self.key, 0o600);
        (certificate, key)
    }

    /// Writes `server.crt` and `server.key` to `directory`. Other users cannot read them. Existing
    /// files are replaced atomically.
    pub fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        self.write_as(directory, "server")
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

/// What opens connections by TLS: it trusts the authority `trusted` (PEM), presents `own`, and offers `protocols`.
///
/// # Panics
///
/// A certificate or a key cannot be used.
pub fn connector(trusted: &str, own: Option<&Identity>, protocols: &[&[u8]]) -> TlsConnector {
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let mut roots = RootCertStore::empty();
    let authority = read(trusted).expect("it is a certificate");
    roots.add(authority).expect("it can be trusted");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => {
            let chain = vec![read(&own.certificate).expect("it is a certificate")];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("it is a key");
            let config = config.with_client_auth_cert(chain, key);
            config.expect("the key belongs to the certificate")
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
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
