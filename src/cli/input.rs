//! What is read from arguments and from stdin.

use std::io::Read;

use keyward_proto::v1::Role;
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Failure;
use keyward_core::key::{KeyId, SecretText};

/// More than any key; the service judges the rest.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// A key's text, or where it is read from.
#[derive(Clone, Debug)]
pub(super) enum KeyText {
    Stdin,
    Given(SecretText),
}

/// Never fails: what a key looks like is judged by the service, and clap would print the text.
pub(super) fn key_text(text: &str) -> Result<KeyText, std::convert::Infallible> {
    Ok(match text {
        "-" => KeyText::Stdin,
        _ => KeyText::Given(SecretText::new(text.to_owned())),
    })
}

impl KeyText {
    /// The text. From `input` one line end at its end is left out, and nothing else.
    pub(super) fn read(&self, input: &mut dyn Read) -> Result<SecretText, Failure> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::Stdin => {
                let mut text = String::new();
                input
                    .take(MAX_KEY_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|error| Failure::Usage(format!("the key on stdin: {error}")))?;
                text.truncate(without_line_end(&text).len());
                if text.is_empty() {
                    return Err(Failure::Usage("there is no key on stdin".to_owned()));
                }
                Ok(SecretText::new(text))
            }
        }
    }
}

pub(super) fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Refuses what is no id without repeating it: it may be a key that was pasted in the wrong place.
pub(super) fn id(name: &str, text: &str) -> Result<String, Failure> {
    let advice = if name == "KEY_ID" {
        "; a key whose text you have is named with `--key -`, and read from stdin"
    } else {
        ""
    };
    KeyId::parse(text)
        .map(|id| id.to_string())
        .ok_or_else(|| Failure::Usage(format!("{name} takes a UUID{advice}")))
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "takes NAME=VALUE".to_owned())
}

pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "takes a time of RFC 3339, such as 2030-01-31T00:00:00Z".to_owned())?;
    Ok(Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    })
}

pub(super) fn role(text: &str) -> Result<Role, String> {
    let known = || {
        keyward_core::key::Role::ALL
            .into_iter()
            .map(keyward_core::key::Role::name)
    };
    known()
        .find(|name| *name == text)
        .and_then(|name| Role::from_str_name(&format!("ROLE_{}", name.to_uppercase())))
        .ok_or_else(|| format!("takes one of {}", known().collect::<Vec<_>>().join(", ")))
}

/// What Postgres takes as the name of a role.
pub(super) fn service_role(text: &str) -> Result<String, String> {
    plain(text, 63)
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    plain(text, 500)
}

fn plain(text: &str, most: usize) -> Result<String, String> {
    if text.is_empty() || text.len() > most || text.contains(char::is_control) {
        return Err(format!(
            "takes 1 to {most} bytes without control characters"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_is_left_out_and_nothing_else() {
        for (given, read) in [
            ("kw_x\n", "kw_x"),
            ("kw_x\r\n", "kw_x"),
            (" kw_x \n\n", " kw_x \n"),
        ] {
            let text = KeyText::Stdin.read(&mut given.as_bytes()).unwrap();
            assert_eq!(text.expose(), read);
        }
        for wrong in [&[0xff_u8][..], b"", b"\n"] {
            assert!(KeyText::Stdin.read(&mut &*wrong).is_err());
        }
    }

    #[test]
    fn every_role_is_known_on_the_wire() {
        for name in keyward_core::key::Role::ALL.map(keyward_core::key::Role::name) {
            assert!(role(name).is_ok(), "{name}");
        }
        assert!(role("root").unwrap_err().contains("issuer, verifier"));
    }

    #[test]
    fn roles_of_postgres_and_reasons_have_bounds() {
        for (read, most) in [(service_role as fn(&str) -> _, 63), (reason, 500)] {
            assert_eq!(read(&"x".repeat(most)), Ok("x".repeat(most)));
            assert_eq!(read("a b 'c\" é"), Ok("a b 'c\" é".to_owned()));
            // A letter of two bytes that ends behind the bound.
            let long = "x".repeat(most - 1) + "é";
            for wrong in ["", "a\nb", "\u{7f}", "\u{85}", &long] {
                let error = read(wrong).unwrap_err();
                assert!(error.contains(&format!("1 to {most} bytes")), "{error}");
            }
        }
    }

    #[test]
    fn an_id_is_not_repeated_when_it_is_none() {
        let Err(Failure::Usage(text)) = id("KEY_ID", "kw_canary") else {
            panic!()
        };
        assert!(text.contains("--key -") && !text.contains("canary"));
    }
}
