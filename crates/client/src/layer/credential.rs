//! Finds the one key of a request and removes it.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::Refusal;
use crate::Secret;

/// Headers with a key as their whole value.
const PLAIN: [&str; 2] = ["apikey", "x-api-key"];
/// A longer text is not a key, so it needs no call.
const MAX_LENGTH: usize = 1024;
/// The scheme of `authorization` with a key as its credentials.
const SCHEME: &str = "bearer";

/// Removes the key and every header with a key. Credentials of other schemes stay.
pub(super) fn take(headers: &mut HeaderMap) -> Result<Secret, Refusal> {
    let key = find(headers)?;
    for name in PLAIN {
        headers.remove(name);
    }
    let others: Vec<HeaderValue> = headers
        .get_all(AUTHORIZATION)
        .iter()
        .filter(|value| matches!(value.to_str(), Ok(text) if bearer(text).is_none()))
        .cloned()
        .collect();
    headers.remove(AUTHORIZATION);
    for value in others {
        headers.append(AUTHORIZATION, value);
    }
    Ok(key)
}

/// The one key in the headers. An empty header does not count: a client sends it if its setting is
/// missing.
fn find(headers: &HeaderMap) -> Result<Secret, Refusal> {
    let plain = PLAIN.iter().flat_map(|name| headers.get_all(*name));
    let plain = plain.map(|value| text(value).map(Some));
    let bearers = headers.get_all(AUTHORIZATION).iter();
    let bearers = bearers.map(|value| text(value).map(bearer));
    let mut found: Option<&str> = None;
    for key in plain.chain(bearers) {
        let Some(key) = key?.filter(|key| !key.is_empty()) else {
            continue;
        };
        if found.is_some_and(|other| other != key) {
            return Err(Refusal::KeyAmbiguous);
        }
        found = Some(key);
    }
    match found {
        None => Err(Refusal::KeyMissing),
        Some(key) if key.len() > MAX_LENGTH => Err(Refusal::KeyUnknown),
        Some(key) => Ok(Secret::new(key)),
    }
}

fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    let text = value.to_str().map_err(|_| Refusal::KeyUnreadable)?;
    Ok(text.trim_ascii())
}

/// The credentials, if the scheme is `Bearer`.
fn bearer(text: &str) -> Option<&str> {
    let text = text.trim_ascii();
    let (scheme, credentials) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| credentials.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = &'static [(&'static str, &'static [u8])];

    fn headers(lines: Lines) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn key_is_found_in_each_header_and_removed() {
        let requests: [Lines; 8] = [
            &[("apikey", b"kw_a")],
            &[("x-api-key", b" kw_a ")],
            &[("authorization", b"Bearer kw_a")],
            &[("authorization", b"bEARER   kw_a")],
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
        let requests: [Lines; 4] = [
            &[("apikey", b"kw_a"), ("x-api-key", b"kw_b")],
            &[("apikey", b"kw_a"), ("apikey", b"kw_b")],
            &[("apikey", b"kw_a"), ("authorization", b"Bearer kw_b")],
            &[
                ("authorization", b"Bearer kw_a"),
                ("authorization", b"Bearer kw_b"),
            ],
        ];
        for lines in requests {
            let refusal = take(&mut headers(lines)).map(|_| ()).unwrap_err();
            assert_eq!(refusal, Refusal::KeyAmbiguous, "{lines:?}");
        }
    }

    #[test]
    fn missing_and_unreadable_keys_are_refused() {
        let cases: [(Lines, Refusal); 6] = [
            (&[], Refusal::KeyMissing),
            (&[("apikey", b" ")], Refusal::KeyMissing),
            (&[("authorization", b"Basic a2V5")], Refusal::KeyMissing),
            (&[("authorization", b"Bearer ")], Refusal::KeyMissing),
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
