//! Parses arguments, and reads a key from stdin.

use std::io::Read;
use std::time::Duration;

use keyward_proto::v1::{Role, State};
use prost_types::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Failure;
use super::args::is_flag;
use keyward_core::key::{KeyId, SecretText, TOKEN_PREFIX, TextForm};

/// Longer than any key; the service checks the text.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// The text of a key, or the order to read it from stdin.
#[derive(Clone, Debug)]
pub(super) enum KeyText {
    Stdin,
    Given(SecretText),
}

/// Never fails, because clap would print the text. The service checks it.
pub(super) fn key_text(text: &str) -> Result<KeyText, std::convert::Infallible> {
    Ok(match text {
        "-" => KeyText::Stdin,
        _ => KeyText::Given(SecretText::new(text.to_owned())),
    })
}

impl KeyText {
    /// The text of a key, as [`Self::read_any`] reads it. A token is refused here, because the service
    /// would only say that it knows no such key.
    pub(super) fn read(&self, input: &mut dyn Read) -> Result<SecretText, Failure> {
        let text = self.read_any(input)?;
        if is_token(text.expose()) {
            return Err(Failure::Usage(
                "--key holds the token of a caller, not an API key: look for its ID with `keyward \
                 token list`, and revoke it with `keyward token revoke TOKEN_ID`"
                    .to_owned(),
            ));
        }
        Ok(text)
    }

    /// The text. Of text from `input`, only one line end at the end is removed.
    pub(super) fn read_any(&self, input: &mut dyn Read) -> Result<SecretText, Failure> {
        match self {
            Self::Given(text) => Ok(text.clone()),
            Self::Stdin => {
                let mut text = String::new();
                input
                    .take(MAX_KEY_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|error| {
                        Failure::Usage(format!("cannot read the key from stdin: {error}"))
                    })?;
                text.truncate(without_line_end(&text).len());
                if text.is_empty() {
                    return Err(Failure::Usage("stdin holds no key".to_owned()));
                }
                Ok(SecretText::new(text))
            }
        }
    }
}

fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Checks a UUID. The error does not repeat the text: it may be a key in the wrong place.
pub(super) fn id(name: &str, text: &str, advice: &str) -> Result<String, Failure> {
    KeyId::parse(text)
        .map(|id| id.to_string())
        .ok_or_else(|| Failure::Usage(format!("{name} must be a UUID{advice}")))
}

/// Each endpoint begins with its scheme, so that a key in the wrong place is refused here, where the
/// error does not repeat it. The client checks the rest.
pub(super) fn endpoints(text: &str) -> Result<String, String> {
    let schemes = ["https://", "http://", "unix:/"];
    let has_scheme = |url: &str| schemes.iter().any(|scheme| url.starts_with(scheme));
    if !text.split(',').map(str::trim).all(has_scheme) {
        return Err(
            "must begin with https:// or http://, as must each URL after a comma".to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// A text that may begin with a dash, such as the ID of a Telegram group. A flag is refused, because
/// it follows another flag whose value is missing.
pub(super) fn value(text: &str) -> Result<String, String> {
    if text.starts_with('-') && is_flag(text) {
        return Err("the value is missing: this is the next flag".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let text = value(text)?;
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be NAME=VALUE".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "must be a duration such as 30m, 12h or 30d".to_owned())
}

/// A duration for a request.
pub(super) fn wire_duration(text: &str) -> Result<prost_types::Duration, String> {
    prost_types::Duration::try_from(duration(text)?).map_err(|_| "must be shorter".to_owned())
}

pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        "must be a time in RFC 3339 format, such as 2030-01-31T00:00:00Z".to_owned()
    })?;
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
        .ok_or_else(|| format!("must be one of {}", known().collect::<Vec<_>>().join(", ")))
}

pub(super) fn state(text: &str) -> Result<State, String> {
    let states = ["active", "disabled", "expired", "revoked"];
    let name = states.iter().find(|name| **name == text);
    name.and_then(|name| State::from_str_name(&format!("STATE_{}", name.to_uppercase())))
        .ok_or_else(|| format!("must be one of {}", states.join(", ")))
}

/// A name that Postgres accepts for a role.
pub(super) fn service_role(text: &str) -> Result<String, String> {
    plain(&value(text)?, 63)
}

/// The reason for a revocation. The service checks the rest.
pub(super) fn reason(text: &str) -> Result<String, String> {
    if TextForm::is_within(text) {
        return Err(
            "contains an API key or token, and a reason is stored for others to read".to_owned(),
        );
    }
    value(text)
}

pub(super) fn epoch_reason(text: &str) -> Result<String, String> {
    plain(&reason(text)?, 500)
}

/// Whether `text` begins as a caller's token does. No API key does.
pub(super) fn is_token(text: &str) -> bool {
    let rest = text.strip_prefix(TOKEN_PREFIX);
    rest.is_some_and(|rest| rest.starts_with('_'))
}

fn plain(text: &str, max: usize) -> Result<String, String> {
    if text.is_empty() || text.len() > max || text.contains(char::is_control) {
        return Err(format!(
            "must have 1 to {max} bytes and no control characters"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_end_is_removed() {
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
    fn every_role_has_a_wire_value() {
        for name in keyward_core::key::Role::ALL.map(keyward_core::key::Role::name) {
            assert!(role(name).is_ok(), "{name}");
        }
        assert!(role("root").unwrap_err().contains("issuer, verifier"));
    }

    #[test]
    fn service_role_and_reason_have_limits() {
        for (parse, max) in [(service_role as fn(&str) -> _, 63), (epoch_reason, 500)] {
            assert_eq!(parse(&"x".repeat(max)), Ok("x".repeat(max)));
            assert_eq!(parse("a b 'c\" é"), Ok("a b 'c\" é".to_owned()));
            // A letter of two bytes that crosses the limit.
            let long = "x".repeat(max - 1) + "é";
            for wrong in ["", "a\nb", "\u{7f}", "\u{85}", &long] {
                let error = parse(wrong).unwrap_err();
                assert!(error.contains(&format!("1 to {max} bytes")), "{error}");
            }
        }
    }

    #[test]
    fn wrong_id_is_not_repeated() {
        let Err(Failure::Usage(text)) = id("KEY_ID", "kw_canary", "; advice") else {
            panic!()
        };
        assert_eq!(text, "KEY_ID must be a UUID; advice");
    }
}
