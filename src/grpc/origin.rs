//! From where a call comes, as the audit records it.

use http::HeaderMap;
use keyward_core::key::Entropy;
use keyward_guard::TrustedProxies;
use keyward_store::Origin;

use super::peer::Peer;

/// The maximum length of a request id that a client chooses.
const MAX_REQUEST_ID: usize = 128;
/// The digits of a trace id in `traceparent`, after the version.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// The path of a method that is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called(pub(super) &'static str);

impl Called {
    /// The name of the method.
    pub(super) fn name(self) -> &'static str {
        self.0.rsplit('/').next().unwrap_or(self.0)
    }
}

/// The origin of a call with these headers on the connection `peer`.
pub(super) fn origin(
    peer: Option<&Peer>,
    headers: &HeaderMap,
    proxies: &TrustedProxies,
    entropy: &dyn Entropy,
) -> Origin {
    let address = peer.and_then(Peer::address);
    let client = proxies.client_ip(address, headers);
    let client = client.filter(|client| address.map(|peer| peer.to_canonical()) != Some(*client));
    Origin {
        peer: peer
            .map(|_| address.map_or_else(|| "unix".to_owned(), |ip| ip.to_canonical().to_string())),
        client: client.map(|client| client.to_string()),
        request: Some(given_id(headers).unwrap_or_else(|| random_id(entropy))),
    }
}

/// Whether a client may name its request so.
pub fn is_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The id that the client has chosen, or else that of its trace.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let own = text("x-request-id").filter(|id| is_request_id(id.as_bytes()));
    let trace = || {
        let id = text("traceparent")?.get(TRACE_ID)?;
        let is_id = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_id && id.bytes().any(|byte| byte != b'0')).then_some(id)
    };
    own.or_else(trace).map(str::to_owned)
}

fn random_id(entropy: &dyn Entropy) -> String {
    let mut random = [0; 16];
    entropy.fill(&mut random);
    format!("{:032x}", u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_its_id_or_its_trace() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Headers<'_>, Option<&str>); 7] = [
            (&[("x-request-id", "order-7")], Some("order-7")),
            (
                &[("x-request-id", "order-7"), ("traceparent", trace)],
                Some("order-7"),
            ),
            (
                &[("traceparent", trace)],
                Some("0af7651916cd43dd8448eb211c80319c"),
            ),
            (&[("x-request-id", "two words")], None),
            (&[("x-request-id", "")], None),
            (&[("traceparent", "00-xyz")], None),
            (&[], None),
        ];
        for (given, id) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in given {
                let name = http::HeaderName::try_from(*name).unwrap();
                headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(given_id(&headers).as_deref(), id, "{given:?}");
        }
        let long = "x".repeat(MAX_REQUEST_ID + 1);
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", long.parse().unwrap());
        assert_eq!(given_id(&headers), None);
    }
}
