//! Reads the service's own certificate, to find the name that the TLS handshake must prove.

use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// A name of the first certificate in `pem`. `None` if the certificate names `address` itself, or no
/// host at all.
pub(super) fn name_to_prove(pem: &[u8], address: IpAddr) -> Option<String> {
    let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let names = &names.value.general_names;
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    if names.contains(&GeneralName::IPAddress(&octets)) {
        return None;
    }
    names.iter().find_map(|name| match name {
        // Any label may replace the wildcard.
        GeneralName::DNSName(name) => Some(name.replacen('*', "keyward", 1)),
        _ => None,
    })
}
