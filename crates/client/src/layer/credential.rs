//! Taking the key off a request: there is one, or the request is refused.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::Refusal;
use crate::Secret;

/// Headers whose whole value is a key.
const PLAIN: [&str; 2] = ["apikey", "x-api-key"];
/// What is longer is no key: Keyward need not be asked.
const MAX_KEY: usize = 1024;
/// The scheme of `authorization` whose credentials are a key.
const SCHEME: &str = "bearer";

/// Takes the key, and every header that holds one, off the request. Credentials of another scheme
/// are not ours and stay.
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

/// The one key that the headers name. An empty header is none: it is what a client sends whose
/// setting is not there.
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
        Some(key) if key.len() > MAX_KEY => Err(Refusal::KeyUnknown),
        Some(key) => Ok(Secret::new(key)),
    }
}

fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    let text = value.to_str().map_err(|_| Refusal::KeyUnreadable)?;
    Ok(text.trim_ascii())
}

/// The credentials, if the scheme is ours.
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
    fn a_key_is_found_wherever_it_stands_and_taken_off() {
        let places: [Lines; 8] = [
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
        for place in places {
            let mut headers = headers(place);
            let key = take(&mut headers).map(|key| key.expose().to_owned());
            assert_eq!(key, Ok("kw_a".to_owned()), "{place:?}");
            assert!(headers.is_empty(), "{headers:?}");
        }
    }

    #[test]
    fn two_keys_are_none() {
        let places: [Lines; 4] = [
            &[("apikey", b"kw_a"), ("x-api-key", b"kw_b")],
            &[("apikey", b"kw_a"), ("apikey", b"kw_b")],
            &[("apikey", b"kw_a"), ("authorization", b"Bearer kw_b")],
            &[
                ("authorization", b"Bearer kw_a"),
                ("authorization", b"Bearer kw_b"),
            ],
        ];
        for place in places {
            let refusal = take(&mut headers(place)).map(|_| ()).unwrap_err();
            assert_eq!(refusal, Refusal::KeyAmbiguous, "{place:?}");
        }
    }

    #[test]
    fn no_key_and_no_text() {
        let cases: [(Lines, Refusal); 6] = [
            (&[], Refusal::KeyMissing),
            (&[("apikey", b" ")], Refusal::KeyMissing),
            (&[("authorization", b"Basic a2V5")], Refusal::KeyMissing),
            (&[("authorization", b"Bearer ")], Refusal::KeyMissing),
            (&[("apikey", b"kw_\xff")], Refusal::KeyUnreadable),
            (&[("authorization", b"Bearer \xe9")], Refusal::KeyUnreadable),
        ];
        for (place, expected) in cases {
            let refusal = take(&mut headers(place)).map(|_| ()).unwrap_err();
            assert_eq!(refusal, expected, "{place:?}");
        }
    }

    #[test]
    fn what_is_much_too_long_is_no_key() {
        for (length, expected) in [(MAX_KEY, None), (MAX_KEY + 1, Some(Refusal::KeyUnknown))] {
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
