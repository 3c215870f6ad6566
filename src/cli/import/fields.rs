//! Converts the fields of a record to a key of the API. No error repeats a value: it may be a key in the
//! wrong field.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use keyward_proto::v1::ImportKey;
use serde_json::{Map, Value};

use super::super::input;

/// The names of the fields: those of the API.
pub(super) const COLUMNS: [&str; 11] = [
    "account_id",
    "name",
    "api_key",
    "digest",
    "digest_scheme",
    "scopes",
    "metadata",
    "expire_time",
    "allowed_cidrs",
    "create_time",
    "recoverable",
];

/// The key that the fields describe. The service checks the values.
pub(super) fn key_of<'f>(
    fields: impl Iterator<Item = (&'f str, Value)>,
) -> Result<ImportKey, String> {
    let mut key = ImportKey::default();
    for (name, value) in fields {
        set(&mut key, name, value).map_err(|reason| match COLUMNS.contains(&name) {
            true => format!("{name}: {reason}"),
            false => reason,
        })?;
    }
    Ok(key)
}

fn set(key: &mut ImportKey, name: &str, value: Value) -> Result<(), String> {
    match name {
        "account_id" => key.account_id = text(value)?,
        "name" => key.name = text(value)?,
        "api_key" => key.api_key = text(value)?,
        "digest" => key.digest = digest(&text(value)?)?,
        "digest_scheme" => key.digest_scheme = text(value)?,
        "scopes" => key.scopes = words(value)?,
        "metadata" => key.metadata = metadata(value)?,
        "expire_time" => key.expire_time = Some(input::time(&text(value)?)?),
        "allowed_cidrs" => key.allowed_cidrs = words(value)?,
        "create_time" => key.create_time = Some(input::time(&text(value)?)?),
        "recoverable" => key.recoverable = truth(&value)?,
        _ => return Err(format!("has an unknown field; use {}", COLUMNS.join(", "))),
    }
    Ok(())
}

fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a text".to_owned()),
    }
}

/// A list, or a text with its elements between spaces.
fn words(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        Value::String(text) => Ok(text.split_ascii_whitespace().map(str::to_owned).collect()),
        _ => Err("must be a list of texts, or a text with spaces between them".to_owned()),
    }
}

/// An object, or a text with one in JSON.
fn metadata(value: Value) -> Result<BTreeMap<String, String>, String> {
    let entries: Map<String, Value> = match value {
        Value::Object(entries) => entries,
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|_| "must be a JSON object of texts")?
        }
        _ => return Err("must be a JSON object of texts".to_owned()),
    };
    let entry = |(name, value)| {
        Ok((
            name,
            text(value).map_err(|_| "must be a JSON object of texts")?,
        ))
    };
    entries.into_iter().map(entry).collect()
}

fn truth(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Bytes in hexadecimal or base64. The service checks their number.
fn digest(text: &str) -> Result<Vec<u8>, String> {
    const HEX_DIGITS: usize = 64;
    if text.len() == HEX_DIGITS
        && let Ok(bytes) = hex::decode(text)
    {
        return Ok(bytes);
    }
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let mut alphabets = [STANDARD, URL_SAFE].iter();
    alphabets
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())
        .ok_or_else(|| "must be 64 hexadecimal digits, or base64".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(fields: Value) -> Result<ImportKey, String> {
        let Value::Object(fields) = fields else {
            panic!()
        };
        key_of(
            fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        )
    }

    #[test]
    fn lists_and_texts_mean_the_same() {
        let lists = json!({
            "scopes": ["a", "b"], "allowed_cidrs": ["10.0.0.0/8"], "metadata": {"team": "x"},
            "recoverable": true, "create_time": "2020-01-01T00:00:00Z",
        });
        let texts = json!({
            "scopes": " a  b", "allowed_cidrs": "10.0.0.0/8", "metadata": r#"{"team":"x"}"#,
            "recoverable": "true", "create_time": "2020-01-01T01:00:00+01:00",
        });
        assert_eq!(key(lists), key(texts));
    }

    #[test]
    fn a_digest_is_hexadecimal_or_base64() {
        let bytes = [0xfb; 32];
        let standard = base64::engine::general_purpose::STANDARD.encode(bytes);
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        for text in [hex::encode(bytes), hex::encode_upper(bytes), standard, url] {
            assert_eq!(digest(&text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "fb", "xyz!", &"g".repeat(63), "é"] {
            assert!(digest(wrong).is_ok_and(|bytes| bytes.len() != 32) || digest(wrong).is_err());
        }
    }

    #[test]
    fn no_error_repeats_a_value() {
        let canary = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";
        for (field, value) in [
            ("account_id", json!([canary])),
            ("api_key", json!({"text": canary})),
            ("digest", json!([canary])),
            ("scopes", json!({canary: 1})),
            ("metadata", json!(canary)),
            (
                "metadata",
                json!(format!("{{\"a\": NaN, \"b\": \"{canary}\"}}")),
            ),
            ("metadata", json!({"a": [canary]})),
            ("expire_time", json!(canary)),
            ("recoverable", json!(canary)),
            (canary, json!("x")),
        ] {
            let error = key(json!({field: value})).unwrap_err();
            assert!(!error.contains(canary), "{error}");
            assert!(error.starts_with(field) != (field == canary), "{error}");
        }
    }
}
