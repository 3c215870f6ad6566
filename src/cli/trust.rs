//! Whom the client believes to be the service: the authorities that a file names, else those of the
//! system; and for the service of this machine's settings its own certificate as well.

use std::net::IpAddr;
use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

use super::Failure;

/// The settings of the client's TLS with a service that was named.
pub(super) fn named(ca_file: Option<&Path>) -> Result<ClientTlsConfig, Failure> {
    match ca_file {
        Some(path) => Ok(ClientTlsConfig::new().ca_certificate(certificates(path)?)),
        None => Ok(ClientTlsConfig::new().with_native_roots()),
    }
}

/// The same with the service of this machine's settings, which listens on `reached` and shows the
/// certificate in the file `own`. Whoever wrote the settings is believed, so the certificates in that
/// file are, too; and the name to be proven is one of the certificate's, since an address seldom is.
pub(super) fn of_this_machine(
    ca_file: Option<&Path>,
    own: &Path,
    reached: IpAddr,
) -> Result<ClientTlsConfig, Failure> {
    let text = read(own)?;
    let tls = match ca_file {
        Some(path) => ClientTlsConfig::new().ca_certificate(certificates(path)?),
        None => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&text)),
    };
    Ok(match name_to_prove(&text, reached) {
        Some(name) => tls.domain_name(name),
        None => tls,
    })
}

fn certificates(path: &Path) -> Result<Certificate, Failure> {
    let text = read(path)?;
    let holds_one = Pem::iter_from_buffer(&text)
        .next()
        .is_some_and(|pem| pem.is_ok_and(|pem| pem.parse_x509().is_ok()));
    match holds_one {
        true => Ok(Certificate::from_pem(text)),
        false => Err(Failure::Failed(format!(
            "{} holds no certificate in PEM",
            path.display()
        ))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::Failed(format!("the certificates {}: {error}", path.display())))
}

/// A name of the first certificate in `text`; `None` if it is one for `address` itself.
fn name_to_prove(text: &[u8], address: IpAddr) -> Option<String> {
    let pem = Pem::iter_from_buffer(text).next()?.ok()?;
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
        // Any one label stands for the star.
        GeneralName::DNSName(name) => Some(name.replacen('*', "keyward", 1)),
        _ => None,
    })
}
