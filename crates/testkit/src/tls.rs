//! A certificate authority of a test's own, and the certificate of a server that it signed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The files that [`write`] made.
pub(crate) struct Files {
    /// The authority's certificate, for clients.
    pub(crate) authority: PathBuf,
    /// The server's certificate.
    pub(crate) certificate: PathBuf,
    /// The server's private key.
    pub(crate) key: PathBuf,
}

/// Draws an authority and a certificate for these names and addresses, and writes them into
/// `directory`.
pub(crate) fn write(directory: &Path, names: &[&str]) -> Files {
    let files = Files {
        authority: directory.join("ca.crt"),
        certificate: directory.join("server.crt"),
        key: directory.join("server.key"),
    };
    let authority_key = KeyPair::generate().expect("a key can be drawn");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "Keyward's tests");
    let root = authority
        .self_signed(&authority_key)
        .expect("an authority signs itself");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key can be drawn");
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names)
        .expect("they are names")
        .signed_by(&key, &issuer)
        .expect("the authority signs");
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).expect("a certificate can be written");
    };
    write(&files.authority, root.pem());
    write(&files.certificate, certificate.pem());
    write(&files.key, key.serialize_pem());
    // The server takes no key that others can read.
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&files.key, private).expect("the key's mode can be set");
    files
}
