//! The fields of a key that a caller chooses. Each is a type whose constructor enforces its limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// The longest `grace` of a Revoke: 30 days.
pub const MAX_GRACE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The longest `ttl` of a key: 100 years of 365 days.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

const MAX_SCOPES: usize = 64;
const MAX_METADATA: usize = 32;
/// Keys and values together. It keeps the response of a full VerifyBatch below 4 MiB, the default
/// limit of gRPC clients.
const MAX_METADATA_BYTES: usize = 8_192;
const MAX_NETWORKS: usize = 32;

/// A refused value of a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// The field's path on the wire, such as `scopes` or `requests[3].client_ip`.
    pub field: Cow<'static, str>,
    /// What is wrong, or which values are allowed.
    pub reason: String,
}

impl FieldError {
    /// An error of `field` with this `reason`.
    pub fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            field: Cow::Borrowed(field),
            reason: reason.into(),
        }
    }

    /// The same error for a field of the message at `path`.
    pub fn within(self, path: &str) -> Self {
        Self {
            field: Cow::Owned(format!("{path}.{}", self.field)),
            ..self
        }
    }
}

/// Defines a text type whose constructor checks the text.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the limits of this type; `field` names it in the error.
            pub fn new(field: &'static str, text: String) -> Result<Self, FieldError> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text).map_err(|reason| FieldError::new(field, reason))?;
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// The account that owns a key: 1 to 128 bytes of printable ASCII, without a space at either end.
    AccountId,
    |text| {
        length(text, 1, 128)?;
        if !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err("takes printable ASCII only".to_owned());
        }
        if text.trim() != text {
            return Err("must not start or end with a space".to_owned());
        }
        Ok(())
    }
);

checked_text!(
    /// The name of a slot or of a caller: 1 to 64 ASCII letters, digits and `._-`.
    SlotName,
    |text| length(text, 1, 64).and_then(|()| characters(text, "._-"))
);

checked_text!(
    /// The reason for a revocation: at most 256 bytes, no control characters.
    Reason,
    |text| length(text, 0, 256).and_then(|()| no_control(text))
);

impl SlotName {
    /// The slot of a request that names none.
    pub fn default_slot() -> Self {
        Self("default".to_owned())
    }
}

fn length(text: &str, least: usize, most: usize) -> Result<(), String> {
    if text.len() < least {
        return Err(if text.is_empty() {
            "must not be empty".to_owned()
        } else {
            format!("takes at least {least} bytes")
        });
    }
    if text.len() > most {
        return Err(format!(
            "takes at most {most} bytes, this one has {}",
            text.len()
        ));
    }
    Ok(())
}

fn characters(text: &str, besides: &str) -> Result<(), String> {
    if text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || besides.contains(c))
    {
        Ok(())
    } else {
        Err(format!("takes ASCII letters, digits and any of {besides}"))
    }
}

fn no_control(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(())
}

fn at_most(field: &'static str, count: usize, most: usize) -> Result<(), FieldError> {
    if count > most {
        return Err(FieldError::new(
            field,
            format!("takes at most {most} entries, there are {count}"),
        ));
    }
    Ok(())
}

/// The scopes of a key: at most 64, of 1 to 64 bytes each, sorted, without duplicates. They are
/// compared as whole strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Box<str>);

impl Scopes {
    /// Checks each scope; duplicates are merged.
    pub fn new(field: &'static str, mut scopes: Vec<String>) -> Result<Self, FieldError> {
        at_most(field, scopes.len(), MAX_SCOPES)?;
        for scope in &scopes {
            length(scope, 1, 64)
                .and_then(|()| characters(scope, "._:/*-"))
                .map_err(|reason| FieldError::new(field, format!("a scope {reason}")))?;
        }
        scopes.sort_unstable();
        scopes.dedup();
        // No scope contains a space. One text for all keeps a key in memory small.
        Ok(Self(scopes.join(" ").into()))
    }

    /// Whether these scopes contain every scope of `required`.
    pub fn cover(&self, required: &Self) -> bool {
        // Both are sorted, so the search goes on where it has ended.
        let mut own = self.iter();
        required.iter().all(|scope| own.any(|own| own == scope))
    }

    /// The scopes, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(' ')
    }

    /// The scopes, sorted.
    pub fn to_vec(&self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }

    /// The size of all in memory, in bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

/// The owner's notes: at most 32 entries and 8 KiB in total. A key is 1 to 64 ASCII letters, digits
/// and `._-`; a value is at most 512 bytes without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Checks each entry.
    pub fn new(field: &'static str, entries: BTreeMap<String, String>) -> Result<Self, FieldError> {
        at_most(field, entries.len(), MAX_METADATA)?;
        for (key, value) in &entries {
            length(key, 1, 64)
                .and_then(|()| characters(key, "._-"))
                .map_err(|reason| FieldError::new(field, format!("a key {reason}")))?;
            length(value, 0, 512)
                .and_then(|()| no_control(value))
                .map_err(|reason| {
                    FieldError::new(field, format!("the value of '{key}' {reason}"))
                })?;
        }
        let bytes: usize = entries.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_METADATA_BYTES {
            let most = MAX_METADATA_BYTES;
            let reason = format!("takes at most {most} bytes in all, this one has {bytes}");
            return Err(FieldError::new(field, reason));
        }
        Ok(Self(entries))
    }

    /// The entries, sorted by key.
    pub fn entries(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// The networks from which a key may be used: at most 32, IPv4 or IPv6. Empty allows all addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(
    #[expect(
        clippy::box_collection,
        reason = "most keys have none, and take 8 bytes for that"
    )]
    Option<Box<Vec<IpNet>>>,
);

impl Networks {
    /// Parses networks in CIDR notation, with host bits zero, and single addresses.
    pub fn new(field: &'static str, texts: &[String]) -> Result<Self, FieldError> {
        at_most(field, texts.len(), MAX_NETWORKS)?;
        texts
            .iter()
            .map(|text| network(text).map_err(|reason| FieldError::new(field, reason)))
            .collect::<Result<Vec<_>, _>>()
            .map(|networks| Self((!networks.is_empty()).then(|| Box::new(networks))))
    }

    /// Whether a client at `address` may use the key. An IPv4-mapped IPv6 address counts as IPv4. An
    /// unknown address is allowed only if all addresses are.
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        let Some(networks) = &self.0 else {
            return true;
        };
        address.is_some_and(|address| {
            let address = address.to_canonical();
            networks.iter().any(|network| network.contains(&address))
        })
    }

    /// The size of all in memory, in bytes.
    pub fn size(&self) -> usize {
        let count = self.0.as_ref().map_or(0, |networks| networks.len());
        count * size_of::<IpNet>()
    }

    /// The networks in CIDR notation.
    pub fn to_texts(&self) -> Vec<String> {
        let networks = self.0.iter().flat_map(|networks| networks.iter());
        networks.map(IpNet::to_string).collect()
    }
}

/// The part of a text that an error may repeat: texts shorter than any key. The text may be a key
/// that was pasted into the wrong field.
pub fn shown(text: &str) -> String {
    match text.len() {
        0..=49 => text.chars().filter(|c| !c.is_control()).collect(),
        _ => "...".to_owned(),
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let shown = shown(text);
    // The standard library is stricter than ipnet, which accepts 010.0.0.0 as 10.0.0.0.
    let (address, length) = text.split_once('/').unzip();
    let address = address.unwrap_or(text).parse::<IpAddr>().ok();
    let parsed = match length {
        Some(_) => address.and_then(|_| text.parse::<IpNet>().ok()),
        None => address.map(IpNet::from),
    }
    .ok_or_else(|| format!("'{shown}' is neither a network like 10.0.0.0/8 nor an address"))?;
    if parsed.addr() != parsed.network() {
        return Err(format!(
            "'{shown}' has host bits set; the network is {}",
            parsed.trunc()
        ));
    }
    if parsed.addr().to_canonical() != parsed.addr() {
        return Err(format!(
            "'{shown}' is an IPv4 network written as IPv6; write it as IPv4"
        ));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Result<AccountId, FieldError> {
        AccountId::new("account_id", text.to_owned())
    }

    #[test]
    fn account_ids_are_checked() {
        assert!(
            account("4").is_ok() && account(&"x".repeat(128)).is_ok() && account("a b").is_ok()
        );
        for bad in ["", " a", "a ", "a\n", "é", &"x".repeat(129)] {
            assert!(account(bad).is_err(), "{bad:?}");
        }
        let error = account(&"x".repeat(129)).unwrap_err().to_string();
        assert_eq!(
            error,
            "account_id: takes at most 128 bytes, this one has 129"
        );
    }

    #[test]
    fn scopes_are_a_set() {
        let scopes = Scopes::new("scopes", vec!["b".into(), "a:*".into(), "b".into()]).unwrap();
        assert_eq!(scopes.to_vec(), ["a:*", "b"]);
        let one = |s: &str| Scopes::new("scopes", vec![s.into()]).unwrap();
        assert!(scopes.cover(&one("b")) && scopes.cover(&Scopes::default()));
        assert!(!scopes.cover(&one("a:x")), "scopes have no wildcards");
        assert!(Scopes::new("scopes", vec!["a".into(); 65]).is_err());
        assert!(Scopes::new("scopes", vec!["a b".into()]).is_err());
    }

    #[test]
    fn networks_are_parsed_strictly() {
        let read = |texts: &[&str]| {
            Networks::new(
                "allowed_cidrs",
                &texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(),
            )
        };
        let networks = read(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]).unwrap();
        let allow = |text: &str| networks.allow(Some(text.parse().unwrap()));
        assert!(allow("10.1.2.3") && allow("::ffff:10.1.2.3") && allow("2001:db8::1"));
        assert!(allow("192.0.2.7") && !allow("192.0.2.8") && !networks.allow(None));
        assert!(Networks::default().allow(None));
        for bad in [
            "10.0.0.1/8",
            "010.0.0.0/8",
            "10.0.0.0/33",
            "",
            "x",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let one = |key: &str, value: &str| {
            Metadata::new(
                "metadata",
                BTreeMap::from([(key.to_owned(), value.to_owned())]),
            )
        };
        assert!(one("team", "payments ✓").is_ok() && one("a", "").is_ok());
        assert!(one("", "x").is_err() && one("a b", "x").is_err() && one("a", "x\n").is_err());
        assert!(one("a", &"x".repeat(513)).is_err());
    }
}
