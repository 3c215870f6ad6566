//! Keyward's verdict on a key, and the identity of a valid one. Only a complete response with VALID
//! becomes [`Verdict::Valid`]; an unknown verdict is an error.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderName, HeaderValue};
use keyward_proto::v1;

/// Keyward's verdict on a key. If several apply, it is the first in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "refuse the key unless the verdict is Valid"]
pub enum Verdict {
    /// The key is live, and meets the conditions of the request.
    Valid(Identity),
    /// The text looks like a key, but no such key exists.
    NotFound,
    /// The text is not a key.
    Malformed,
    /// The key is revoked for good.
    Revoked(DeadKey),
    /// The key has expired for good.
    Expired(DeadKey),
    /// The key is disabled; it can be enabled again.
    Disabled(DeadKey),
    /// The key is live, but lacks a required scope.
    InsufficientScope,
    /// The key is live, but may not be used from this address.
    IpNotAllowed,
}

/// A key that is revoked, expired or disabled. Log its name, to see who still uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadKey {
    /// The public name of the key, a UUID; empty if the service is of an older version.
    pub key_id: String,
}

/// The account and the rights of a valid key. Cheap to clone; its fields are those of [`Holder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Arc<Holder>);

impl Deref for Identity {
    type Target = Holder;

    fn deref(&self) -> &Holder {
        &self.0
    }
}

impl From<Holder> for Identity {
    fn from(holder: Holder) -> Self {
        Self(Arc::new(holder))
    }
}

/// The fields of an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The public name of the key, a UUID.
    pub key_id: String,
    /// The account that owns the key.
    pub account_id: String,
    /// The slot of the account that the key fills.
    pub name: String,
    /// All scopes of the key, sorted; not only the required ones.
    pub scopes: Vec<String>,
    /// The metadata of the key.
    pub metadata: BTreeMap<String, String>,
    /// The time at which the key expires; `None`: never.
    pub expire_time: Option<SystemTime>,
    /// The revision of the key's last change; 0: unchanged since its creation.
    pub revision: u64,
}

/// The headers of [`Identity::headers`], in their order.
pub const IDENTITY_HEADERS: [HeaderName; 5] = [
    HeaderName::from_static("x-keyward-key-id"),
    HeaderName::from_static("x-keyward-account-id"),
    HeaderName::from_static("x-keyward-name"),
    HeaderName::from_static("x-keyward-scopes"),
    HeaderName::from_static("x-keyward-metadata"),
];

/// A response that is no verdict, and so says nothing about the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidResponse {
    /// The verdict is unknown.
    #[error("the response holds the verdict {0}, which is unknown")]
    UnknownVerdict(i32),
    /// The response is VALID without a key or an account.
    #[error("the response says VALID without a key and account")]
    NoIdentity,
    /// The response is VALID with an impossible time.
    #[error("the response says VALID with an impossible expire_time")]
    ExpireTime,
    /// A field of the identity does not fit into its header.
    #[error("the response says VALID with an identity that {0} cannot hold")]
    Header(HeaderName),
}

impl Identity {
    /// The headers that hand this identity to a service behind a proxy: always all, in the order of
    /// [`IDENTITY_HEADERS`]. Scopes are separated by spaces; the metadata is one JSON object in ASCII.
    ///
    /// # Errors
    ///
    /// If a field is not printable ASCII, or has a space at an end. Keyward has no such key.
    pub fn headers(&self) -> Result<[(HeaderName, HeaderValue); 5], InvalidResponse> {
        let [key_id, account_id, name, scopes, metadata] = IDENTITY_HEADERS;
        Ok([
            header(key_id, &self.key_id)?,
            header(account_id, &self.account_id)?,
            header(name, &self.name)?,
            header(scopes, &self.scopes.join(" "))?,
            header(metadata, &ascii_json(&self.metadata))?,
        ])
    }
}

fn header(name: HeaderName, text: &str) -> Result<(HeaderName, HeaderValue), InvalidResponse> {
    let is_plain = text.trim() == text && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match HeaderValue::from_str(text) {
        Ok(value) if is_plain => Ok((name, value)),
        _ => Err(InvalidResponse::Header(name)),
    }
}

/// One JSON object, with escapes for all characters that a header cannot hold.
fn ascii_json(entries: &BTreeMap<String, String>) -> String {
    let mut ascii = String::new();
    for character in serde_json::json!(entries).to_string().chars() {
        if character <= '~' {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

impl TryFrom<v1::VerifyResponse> for Verdict {
    type Error = InvalidResponse;

    /// Fails closed: an unknown verdict, and a VALID without key or account, are errors.
    fn try_from(response: v1::VerifyResponse) -> Result<Self, InvalidResponse> {
        Ok(match v1::Verdict::try_from(response.verdict) {
            Ok(v1::Verdict::Valid) => Self::Valid(response.try_into()?),
            Ok(v1::Verdict::NotFound) => Self::NotFound,
            Ok(v1::Verdict::Malformed) => Self::Malformed,
            Ok(v1::Verdict::Revoked) => Self::Revoked(DeadKey::from(response)),
            Ok(v1::Verdict::Expired) => Self::Expired(DeadKey::from(response)),
            Ok(v1::Verdict::Disabled) => Self::Disabled(DeadKey::from(response)),
            Ok(v1::Verdict::InsufficientScope) => Self::InsufficientScope,
            Ok(v1::Verdict::IpNotAllowed) => Self::IpNotAllowed,
            Ok(v1::Verdict::Unspecified) | Err(_) => {
                return Err(InvalidResponse::UnknownVerdict(response.verdict));
            }
        })
    }
}

/// What Keyward answers with this verdict.
impl From<&Verdict> for v1::VerifyResponse {
    fn from(verdict: &Verdict) -> Self {
        let said = |verdict: v1::Verdict| Self {
            verdict: verdict.into(),
            ..Self::default()
        };
        let dead = |verdict, key: &DeadKey| Self {
            key_id: key.key_id.clone(),
            ..said(verdict)
        };
        match verdict {
            Verdict::Valid(identity) => Self {
                key_id: identity.key_id.clone(),
                account_id: identity.account_id.clone(),
                name: identity.name.clone(),
                scopes: identity.scopes.clone(),
                metadata: identity.metadata.clone(),
                expire_time: identity.expire_time.map(Into::into),
                revision: identity.revision,
                ..said(v1::Verdict::Valid)
            },
            Verdict::NotFound => said(v1::Verdict::NotFound),
            Verdict::Malformed => said(v1::Verdict::Malformed),
            Verdict::Revoked(key) => dead(v1::Verdict::Revoked, key),
            Verdict::Expired(key) => dead(v1::Verdict::Expired, key),
            Verdict::Disabled(key) => dead(v1::Verdict::Disabled, key),
            Verdict::InsufficientScope => said(v1::Verdict::InsufficientScope),
            Verdict::IpNotAllowed => said(v1::Verdict::IpNotAllowed),
        }
    }
}

impl From<v1::VerifyResponse> for DeadKey {
    fn from(response: v1::VerifyResponse) -> Self {
        Self {
            key_id: response.key_id,
        }
    }
}

impl TryFrom<v1::VerifyResponse> for Identity {
    type Error = InvalidResponse;

    fn try_from(response: v1::VerifyResponse) -> Result<Self, InvalidResponse> {
        if response.key_id.is_empty() || response.account_id.is_empty() {
            return Err(InvalidResponse::NoIdentity);
        }
        let expire_time = response.expire_time.map(SystemTime::try_from).transpose();
        Ok(Self::from(Holder {
            key_id: response.key_id,
            account_id: response.account_id,
            name: response.name,
            scopes: response.scopes,
            metadata: response.metadata,
            expire_time: expire_time.map_err(|_| InvalidResponse::ExpireTime)?,
            revision: response.revision,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> v1::VerifyResponse {
        v1::VerifyResponse {
            verdict: v1::Verdict::Valid.into(),
            key_id: "0197-key".to_owned(),
            account_id: r#"team "a", b/c\d~"#.to_owned(),
            ..Default::default()
        }
    }

    fn holder(identity: &mut Identity) -> &mut Holder {
        Arc::get_mut(&mut identity.0).unwrap()
    }

    fn lines(identity: &Identity) -> Vec<(String, String)> {
        let headers = identity.headers().unwrap();
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(line).collect()
    }

    #[test]
    fn identity_always_has_all_headers() {
        let mut identity = Identity::try_from(valid()).unwrap();
        let empty = lines(&identity);
        let names = IDENTITY_HEADERS.map(|name| name.to_string());
        assert!(empty.iter().map(|line| &line.0).eq(&names), "{empty:?}");
        let values: Vec<_> = empty.into_iter().map(|line| line.1).collect();
        assert_eq!(values, ["0197-key", r#"team "a", b/c\d~"#, "", "", "{}"]);

        holder(&mut identity).name = "default".to_owned();
        holder(&mut identity).scopes = vec!["a:b".to_owned(), "c".to_owned()];
        let value = "é\u{7f}~\"\\\n\u{1f511}";
        holder(&mut identity).metadata = [("plan".to_owned(), value.to_owned())].into();
        let [_, _, name, scopes, metadata] = lines(&identity).try_into().unwrap();
        assert_eq!((name.1, scopes.1), ("default".into(), "a:b c".into()));
        let expected = r#"{"plan":"\u00e9\u007f~\"\\\n\ud83d\udd11"}"#;
        assert_eq!(metadata.1, expected);
        let parsed: BTreeMap<String, String> = serde_json::from_str(&metadata.1).unwrap();
        assert_eq!(parsed, identity.metadata);
    }

    #[test]
    fn a_verdict_becomes_the_response_that_it_came_from() {
        for verdict in 1..=8 {
            let mut response = v1::VerifyResponse {
                verdict,
                ..Default::default()
            };
            match response.verdict() {
                v1::Verdict::Valid => {
                    response = v1::VerifyResponse {
                        name: "default".to_owned(),
                        scopes: vec!["a".to_owned(), "b".to_owned()],
                        metadata: [("plan".to_owned(), "pro".to_owned())].into(),
                        expire_time: Some(prost_types::Timestamp {
                            seconds: 7,
                            nanos: 8_000,
                        }),
                        revision: 9,
                        ..valid()
                    }
                }
                v1::Verdict::Revoked | v1::Verdict::Expired | v1::Verdict::Disabled => {
                    response.key_id = "0197-key".to_owned();
                }
                _ => {}
            }
            let judged = Verdict::try_from(response.clone()).unwrap();
            assert_eq!(v1::VerifyResponse::from(&judged), response);
        }
    }

    /// Without the wrong character, it would be another account.
    #[test]
    fn identity_that_no_header_can_hold_is_an_error() {
        for account_id in ["4\n2", "4\u{7f}2", "é", "42 ", "4\t2"] {
            let mut identity = Identity::try_from(valid()).unwrap();
            holder(&mut identity).account_id = account_id.to_owned();
            let error = identity.headers().unwrap_err();
            assert_eq!(error, InvalidResponse::Header(IDENTITY_HEADERS[1].clone()));
        }
    }

    #[test]
    fn only_a_complete_response_is_valid() {
        type Change = fn(&mut v1::VerifyResponse);
        let cases: [(Change, InvalidResponse); 5] = [
            (|r| r.verdict = 0, InvalidResponse::UnknownVerdict(0)),
            (|r| r.verdict = 99, InvalidResponse::UnknownVerdict(99)),
            (|r| r.key_id.clear(), InvalidResponse::NoIdentity),
            (|r| r.account_id.clear(), InvalidResponse::NoIdentity),
            (
                |r| {
                    let seconds = i64::MIN;
                    r.expire_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
                },
                InvalidResponse::ExpireTime,
            ),
        ];
        for (change, expected) in cases {
            let mut response = valid();
            change(&mut response);
            assert_eq!(Verdict::try_from(response), Err(expected));
        }
    }
}
