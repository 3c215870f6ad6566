//! The name in a client certificate by which its caller is known.

use std::fmt;

use super::FieldError;

/// The maximum length, in bytes.
const MAX_LENGTH: usize = 512;

/// A URI or a DNS name from the SAN extension of a certificate (RFC 5280, 4.2.1.6), in the one form in which
/// it is compared. A URI has a `:`, a DNS name has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct San(String);

impl San {
    /// Checks and normalises a URI or a DNS name; `field` names it in the error.
    pub fn new(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let fail = |reason: &str| Err(FieldError::new(field, reason));
        if text.is_empty() || text.len() > MAX_LENGTH {
            return fail("takes 1 to 512 bytes");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return fail("takes printable ASCII without spaces only");
        }
        let normal = match text.contains(':') {
            true => uri(text),
            false => dns(text),
        };
        match normal {
            Some(normal) => Ok(Self(normal)),
            None => fail(
                "must be a URI such as spiffe://corp/billing, or a DNS name without a wildcard such \
                 as billing.corp.example",
            ),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Scheme and host in lower case; the rest is compared byte by byte.
fn uri(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || rest.is_empty() {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    let Some(rest) = rest.strip_prefix("//") else {
        return Some(format!("{scheme}:{rest}"));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    // A user in front of the host is case-sensitive, and names no workload.
    (!host.is_empty() && !host.contains(['@', '*']))
        .then(|| format!("{scheme}://{}{path}", host.to_ascii_lowercase()))
}

/// In lower case. A wildcard stands for many callers, so it is refused.
fn dns(text: &str) -> Option<String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (text.len() <= 253 && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form() {
        for (given, normal) in [
            ("Billing.Corp.example", "billing.corp.example"),
            ("localhost", "localhost"),
            ("_x.example", "_x.example"),
            ("SPIFFE://Corp/Billing", "spiffe://corp/Billing"),
            ("spiffe://corp", "spiffe://corp"),
            ("https://Corp:8443?A", "https://corp:8443?A"),
            ("urn:Corp:Billing", "urn:Corp:Billing"),
        ] {
            assert_eq!(San::new("san", given).unwrap().as_str(), normal);
            assert_eq!(San::new("san", normal).unwrap().as_str(), normal);
        }
    }

    #[test]
    fn what_names_no_single_caller_is_refused() {
        let long = format!("spiffe://corp/{}", "x".repeat(MAX_LENGTH));
        for wrong in [
            "",
            "*.corp.example",
            "https://*.corp.example/",
            "billing.corp.example.",
            ".corp.example",
            "a..b",
            "-a.example",
            "a-.example",
            "bil ling",
            "b\u{fc}ro.example",
            "spiffe://",
            "spiffe:///billing",
            "://corp/billing",
            "1a://corp",
            "https://user@corp/",
            "mailto:",
            "a\u{0}.example",
            &long,
            &"x".repeat(64),
        ] {
            assert!(San::new("san", wrong).is_err(), "{wrong:?}");
        }
    }
}
