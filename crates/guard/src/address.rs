//! Finds the address of a client behind trusted proxies.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// A text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidNetwork(String);

/// The networks of your own proxies. None by default.
///
/// Each proxy appends the address of its peer to `x-forwarded-for`. So the last entries come from your
/// proxies, and the client may have written all others. The client's address is therefore the rightmost
/// untrusted one: of the entries of the header, followed by the peer of the connection, the last that
/// is in none of these networks. It is unknown (`None`) if there is no such address, or if an entry
/// after it is not an address.
///
/// All lines of the header count, in order. An entry may hold a port, as in `192.0.2.1:4711` and
/// `[2001:db8::1]:4711`. An IPv4-mapped IPv6 address counts as IPv4.
///
/// List only proxies that append to the header or replace it. A client that connects from one of these
/// networks can claim any address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Parses networks, such as `10.0.0.0/8`, and single addresses.
    ///
    /// # Errors
    ///
    /// If a text is neither, has host bits set, or is an IPv4 network written as IPv6.
    pub fn new<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, InvalidNetwork> {
        let networks = texts.into_iter().map(|text| network(text.as_ref().trim()));
        networks.collect::<Result<_, _>>().map(Self)
    }

    /// The address of the client of a connection from `peer`. Unknown if the peer is, because then
    /// anybody may have written the header.
    pub fn client_ip(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = peer?.to_canonical();
        if self.contain(peer) {
            self.client_ip_from_proxy(headers)
        } else {
            Some(peer)
        }
    }

    /// The address of the client, from the header alone. Call this only if you know that the peer is
    /// your proxy, for example by its token.
    pub fn client_ip_from_proxy(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        entries
            .map(address)
            .find(|found| found.is_none_or(|address| !self.contain(address)))
            .flatten()
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The address in one entry of the header; `None` if the entry is anything else.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?.trim();
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    let address: IpAddr = text.parse().or_else(|_| with_port()).ok()?;
    Some(address.to_canonical())
}

fn network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let parse = || {
        // The standard library is stricter than ipnet, which accepts 010.0.0.0 as 10.0.0.0.
        let (address, length) = text.split_once('/').unzip();
        let address: IpAddr = address.unwrap_or(text).parse().ok()?;
        match length {
            Some(length) => IpNet::new(address, length.parse().ok()?).ok(),
            None => Some(address.into()),
        }
    };
    let problem = match parse() {
        None => "is neither a network like 10.0.0.0/8 nor an address".to_owned(),
        Some(network) if network.addr() != network.network() => {
            format!("has host bits set; the network is {}", network.trunc())
        }
        Some(network) if network.addr().to_canonical() != network.addr() => {
            "is an IPv4 network written as IPv6; write it as IPv4".to_owned()
        }
        Some(network) => return Ok(network),
    };
    Err(InvalidNetwork(format!("'{text}' {problem}")))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn headers<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = HeaderValue::from_bytes(line).unwrap();
            headers.append("x-forwarded-for", line);
        }
        headers
    }

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(["10.0.0.0/8", "203.0.113.7", "2001:db8:1::/48"]).unwrap()
    }

    #[test]
    fn client_is_the_rightmost_untrusted_address() {
        let many = format!("6.6.6.6, {}192.0.2.1", "8.8.8.8, ".repeat(1000));
        let all_trusted = format!("192.0.2.1{}", ", 10.0.0.1".repeat(1000));
        let cases: [(&[&str], Option<&str>); 26] = [
            (&["192.0.2.1"], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1"], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 10.0.0.1"], Some("192.0.2.1")),
            (
                &["10.0.0.9, 192.0.2.1,\t203.0.113.7 ,10.1.1.1"],
                Some("192.0.2.1"),
            ),
            (
                &["nonsense, , \u{e9}, 192.0.2.1, 10.0.0.1"],
                Some("192.0.2.1"),
            ),
            (&["6.6.6.6", "192.0.2.1,10.0.0.1"], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1", "10.0.0.1"], Some("192.0.2.1")),
            (&["192.0.2.1", "6.6.6.6"], Some("6.6.6.6")),
            (&["192.0.2.1:4711, 10.0.0.1:80"], Some("192.0.2.1")),
            (&["[2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["2001:DB8:0::1, 2001:db8:1::9"], Some("2001:db8::1")),
            (&["2001:db8::1, [2001:db8:1::9]:1"], Some("2001:db8::1")),
            (&["::ffff:192.0.2.1, ::ffff:10.0.0.1"], Some("192.0.2.1")),
            (&["[::ffff:192.0.2.1]:1"], Some("192.0.2.1")),
            (&[&many], Some("192.0.2.1")),
            (&[&all_trusted], Some("192.0.2.1")),
            (&[], None),
            (&[""], None),
            (&["10.0.0.1, 203.0.113.7"], None),
            (&["192.0.2.1, "], None),
            (&["192.0.2.1, , 10.0.0.1"], None),
            (&["192.0.2.1, unknown, 10.0.0.1"], None),
            (&["192.0.2.1", "\u{e9}"], None),
            (&["192.0.2.1:99999"], None),
            (&["010.0.0.1"], None),
            (&["for=192.0.2.1"], None),
        ];
        for (lines, expected) in cases {
            let headers = headers(lines.iter().map(|line| line.as_bytes()));
            let expected: Option<IpAddr> = expected.map(|text| text.parse().unwrap());
            assert_eq!(
                proxies().client_ip_from_proxy(&headers),
                expected,
                "{lines:?}"
            );
            let peer = "::ffff:10.0.0.2".parse().ok();
            let found = proxies().client_ip(peer, &headers);
            assert_eq!(found, expected, "{lines:?} from a trusted peer");

            assert_eq!(proxies().client_ip(None, &headers), None);
            let stranger: Option<IpAddr> = "198.51.100.1".parse().ok();
            assert_eq!(proxies().client_ip(stranger, &headers), stranger);
            let none_trusted = TrustedProxies::default();
            let peer = "10.0.0.2".parse().ok();
            assert_eq!(none_trusted.client_ip(peer, &headers), peer);
        }
    }

    /// The bytes of a header's value.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            Just(b','),
            Just(b' '),
            b'0'..=b':',
            0x20..0x7f_u8,
            0x80..=0xff_u8
        ];
        vec(byte, 0..40)
    }

    fn trusted() -> impl Strategy<Value = IpAddr> {
        any::<[u8; 3]>().prop_map(|[b, c, d]| [10, b, c, d].into())
    }

    proptest! {
        #[test]
        fn what_the_client_writes_never_counts(
            lines in vec(line(), 0..4),
            before in line(),
            client in any::<IpAddr>(),
            behind in vec(trusted(), 0..4),
            peer in trusted(),
        ) {
            let client = client.to_canonical();
            prop_assume!(!proxies().contain(client));
            let appended = behind.iter().map(|proxy| format!(", {proxy}"));
            let mut last = before;
            last.extend(format!(",{client}{}", appended.collect::<String>()).bytes());
            let headers = headers(lines.iter().chain([&last]).map(Vec::as_slice));
            prop_assert_eq!(proxies().client_ip(Some(peer), &headers), Some(client));
            prop_assert_eq!(proxies().client_ip_from_proxy(&headers), Some(client));
        }
    }

    #[test]
    fn networks_are_checked() {
        for text in ["10.0.0.0/8", " 10.1.2.3 ", "::1", "2001:db8::/32", "::/0"] {
            assert!(TrustedProxies::new([text]).is_ok(), "{text}");
        }
        for (text, problem) in [
            (
                "proxy",
                "'proxy' is neither a network like 10.0.0.0/8 nor an address",
            ),
            ("", "is neither"),
            ("10.0.0.0/33", "is neither"),
            ("10.0.0.0/", "is neither"),
            ("010.0.0.0/8", "is neither"),
            ("10.0.0.0/8,::1", "is neither"),
            ("10.0.0.1/8", "has host bits set; the network is 10.0.0.0/8"),
            ("::ffff:10.0.0.0/104", "written as IPv6; write it as IPv4"),
        ] {
            let error = TrustedProxies::new(["::1", text]).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
