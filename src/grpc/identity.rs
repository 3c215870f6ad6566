//! Who the client of a connection is: its certificate, and the caller of its latest call.

use std::sync::OnceLock;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::auth::{Caller, Certificate};

type Secret = Zeroizing<Vec<u8>>;

/// The certificate of a client.
pub(super) struct ClientCertificate {
    pub(super) certificate: Certificate,
    /// Ends when the authorities that vouched for it are replaced.
    pub(super) replaced: CancellationToken,
}

/// Who the client of one connection is.
#[derive(Default)]
pub(super) struct Identity {
    certificate: OnceLock<ClientCertificate>,
    /// The latest authenticated caller, and its header `authorization`; without one, its certificate decided.
    known: Mutex<Option<(Option<Secret>, Caller)>>,
}

impl Identity {
    /// Notes the certificate with which the client has opened the connection.
    pub(super) fn has_certificate(&self, certificate: ClientCertificate) {
        // A connection has one handshake.
        let _ = self.certificate.set(certificate);
    }

    /// The client's certificate.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.get().map(|client| &client.certificate)
    }

    /// Returns when the authorities that vouched for the client's certificate are replaced.
    pub(super) async fn authorities_replaced(&self) {
        match self.certificate.get() {
            Some(client) => client.replaced.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The caller that sent this header `authorization`, or none, in an earlier call on this connection.
    pub(super) fn known_caller(&self, authorization: Option<&[u8]>) -> Option<Caller> {
        let known = self.known.lock();
        let (header, caller) = known.as_ref()?;
        let is_known = match (header, authorization) {
            (Some(header), Some(authorization)) => is_same(header, authorization),
            (None, None) => true,
            _ => false,
        };
        is_known.then(|| caller.clone())
    }

    /// Remembers the caller that sent this header `authorization`, or none.
    pub(super) fn remember(&self, authorization: Option<&[u8]>, caller: &Caller) {
        let header = authorization.map(|value| value.to_vec().into());
        *self.known.lock() = Some((header, caller.clone()));
    }
}

/// Compares two secrets in a time that depends on their length alone.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}
