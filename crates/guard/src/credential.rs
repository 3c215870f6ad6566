//! Finds the one key of a request and removes it.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Refusal, Secret};

/// The headers with a key, unless the service chooses others. Of `authorization` only the schemes
/// `ApiKey` and `Bearer` count; another header is a key as a whole.
pub const DEFAULT_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("apikey"),
    HeaderName::from_static("x-api-key"),
    AUTHORIZATION,
];
/// A longer text is not a key, so it needs no call.
const MAX_LENGTH: usize = 1024;
/// The schemes of `authorization` with a key as their credentials.
const SCHEMES: [&str; 2] = ["apikey", "bearer"];

/// Finds the one key in the headers `names`, and removes all keys from them. The same key may occur
/// several times.
///
/// # Errors
///
/// The refusal of a request without a key, with two different keys, or with a text that cannot be one.
pub fn take(headers: &mut HeaderMap, names: &[HeaderName]) -> Result<Secret, Refusal> {
    let key = find(headers, names)?;
    remove(headers, names);
    Ok(key)
}

/// Removes all keys. Credentials of other schemes stay.
pub fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        let others = headers.get_all(name).iter();
        let others = others.filter(|value| matches!(key_in(name, value), Ok(None)));
        let others: Vec<_> = others.cloned().collect();
        headers.remove(name);
        for value in others {
            headers.append(name, value);
        }
    }
}

/// The one key in the headers. An empty header does not count: a client sends it if its setting is
/// missing.
fn find(headers: &HeaderMap, names: &[HeaderName]) -> Result<Secret, Refusal> {
    let mut found: Option<&str> = None;
    for name in names {
        for value in headers.get_all(name) {
            let Some(key) = key_in(name, value)?.filter(|key| !key.is_empty()) else {
                continue;
            };
            if found.is_some_and(|other| other != key) {
                return Err(Refusal::KeyAmbiguous);
            }
            found = Some(key);
        }
    }
    match found {
        None => Err(Refusal::KeyMissing {
            headers: names.to_vec(),
        }),
        Some(key) if key.len() > MAX_LENGTH => Err(Refusal::KeyUnknown),
        Some(key) => Ok(Secret::new(key)),
    }
}

/// The key in one line of the header `name`. `None` if it holds credentials of another scheme.
fn key_in<'v>(name: &HeaderName, value: &'v HeaderValue) -> Result<Option<&'v str>, Refusal> {
    let text = value.to_str().map_err(|_| Refusal::KeyUnreadable)?;
    let text = text.trim_ascii();
    if name != AUTHORIZATION {
        return Ok(Some(text));
    }
    let (scheme, credentials) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let mut schemes = SCHEMES.iter();
    let is_ours = schemes.any(|ours| scheme.eq_ignore_ascii_case(ours));
    Ok(is_ours.then(|| credentials.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = &'static [(&'static str, &'static [u8])];

    fn take(headers: &mut HeaderMap) -> Result<Secret, Refusal> {
        super::take(headers, &DEFAULT_HEADERS)
    }

    fn headers(lines: Lines) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn key_is_found_in_each_header_and_removed() {
        let requests: [Lines; 10] = [
            &[("apikey", b"kw_a")],
            &[("x-api-key", b" kw_a ")],
            &[("authorization", b"Bearer kw_a")],
            &[("authorization", b"bEARER   kw_a")],
            &[("authorization", b"ApiKey kw_a")],
            &[("authorization", b"APIKEY\tkw_a"), ("apikey", b"kw_a")],
            &[("apikey", b""), ("x-api-key", b"kw_a")],
            &[("apikey", b"kw_a"), ("authorization", b"Bearer")],
            &[
                ("apikey", b"kw_a"),
                ("apikey", b"kw_a"),
                ("x-api-key", b"kw_a"),
                ("authorization", b"Bearer kw_a"),
            ],
            &[("authorization", b"BEARER kw_a"), ("apikey", b"kw_a")],
        ];
        for lines in requests {
            let mut headers = headers(lines);
            let key = take(&mut headers).map(|key| key.expose().to_owned());
            assert_eq!(key, Ok("kw_a".to_owned()), "{lines:?}");
            assert!(headers.is_empty(), "{headers:?}");
        }
    }

    #[test]
    fn two_different_keys_are_refused() {
        let requests: [Lines; 5] = [
            &[("apikey", b"kw_a"), ("x-api-key", b"kw_b")],
            &[("apikey", b"kw_a"), ("apikey", b"kw_b")],
            &[("apikey", b"kw_a"), ("authorization", b"Bearer kw_b")],
            &[
                ("authorization", b"Bearer kw_a"),
                ("authorization", b"Bearer kw_b"),
            ],
            &[
                ("authorization", b"Bearer kw_a"),
                ("authorization", b"ApiKey kw_b"),
            ],
        ];
        for lines in requests {
            let refusal = take(&mut headers(lines)).map(|_| ()).unwrap_err();
            assert_eq!(refusal, Refusal::KeyAmbiguous, "{lines:?}");
        }
    }

    #[test]
    fn missing_and_unreadable_keys_are_refused() {
        let missing = || Refusal::KeyMissing {
            headers: DEFAULT_HEADERS.to_vec(),
        };
        let cases: [(Lines, Refusal); 7] = [
            (&[], missing()),
            (&[("apikey", b" ")], missing()),
            (&[("authorization", b"Basic a2V5")], missing()),
            (&[("authorization", b"ApiKey")], missing()),
            (&[("authorization", b"Bearer ")], missing()),
            (&[("apikey", b"kw_\xff")], Refusal::KeyUnreadable),
            (&[("authorization", b"Bearer \xe9")], Refusal::KeyUnreadable),
        ];
        for (lines, expected) in cases {
            let refusal = take(&mut headers(lines)).map(|_| ()).unwrap_err();
            assert_eq!(refusal, expected, "{lines:?}");
        }
    }

    #[test]
    fn too_long_text_is_an_unknown_key() {
        for (length, expected) in [
            (MAX_LENGTH, None),
            (MAX_LENGTH + 1, Some(Refusal::KeyUnknown)),
        ] {
            let mut headers = HeaderMap::new();
            let long = HeaderValue::try_from("k".repeat(length)).unwrap();
            headers.append("apikey", long);
            assert_eq!(take(&mut headers).err(), expected);
        }
    }

    #[test]
    fn credentials_of_another_scheme_stay() {
        let mut headers = headers(&[
            ("authorization", b"Basic a2V5"),
            ("authorization", b"Bearer kw_a"),
            ("accept", b"*/*"),
        ]);
        assert!(take(&mut headers).is_ok());
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["authorization"], "Basic a2V5");
    }
}
