//! Client certificates: which ones a handshake accepts, and what an accepted one says. A client without one is
//! welcome, and sends tokens.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore};
use x509_parser::extensions::GeneralName;

use super::files::{TlsError, unusable};
use crate::auth::Certificate;
use keyward_core::key::Timestamp;

/// Accepts certificates that lead to one of `authorities`, are valid now, and may be used by clients.
pub(super) fn verifier(
    authorities: &[CertificateDer<'static>],
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(authority.clone());
        added.map_err(|error| unusable(path, error))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(path, error))
}

/// What a verified certificate says.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Certificate {
    let Ok((_, read)) = x509_parser::parse_x509_certificate(certificate) else {
        return Certificate::unreadable("the client certificate cannot be read");
    };
    let Ok(extension) = read.subject_alternative_name() else {
        return Certificate::unreadable("the names (SAN) of the client certificate cannot be read");
    };
    let names = extension
        .iter()
        .flat_map(|names| &names.value.general_names);
    // Authorities check the two kinds by different rules, so a text of one kind proves no name of the other.
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name).filter(|name| !name.contains(':')),
        GeneralName::URI(name) => Some(*name).filter(|name| name.contains(':')),
        _ => None,
    });
    // The last second belongs to the validity (RFC 5280, 4.1.2.5).
    let end = read.validity().not_after.timestamp().saturating_add(1);
    Certificate::new(names, Timestamp::from_micros(end.saturating_mul(1_000_000)))
}

/// Why a handshake refused the client's certificate, if it did.
pub(super) fn refusal(error: &std::io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        Error::InvalidCertificate(reason) => Some(reason),
        _ => None,
    }
}
