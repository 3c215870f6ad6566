//! Messages in the JSON form of protobuf, by their descriptors. What protobuf would pass over in silence
//! is refused: a field given twice, an unknown field. No error contains a value, because it may be a
//! secret.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use keyward_core::key::{FieldError, shown};
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use tonic::Status;

use crate::grpc;
use crate::service::ServiceError;

/// Reads the message of a request body.
pub(super) fn read(message: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Status> {
    let json = std::str::from_utf8(json).map_err(|_| grpc::undecodable("the body is not UTF-8"))?;
    if json.trim_ascii().is_empty() {
        return Err(grpc::undecodable(
            "the body is empty; send a JSON object, `{}` for a message without fields",
        ));
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let strict = Strict {
        message: Some(message),
    };
    let read = strict.deserialize(&mut reader);
    read.and_then(|()| reader.end())
        .map_err(|error| grpc::undecodable(&error.to_string()))?;
    from_json(message, &mut serde_json::Deserializer::from_str(json))
}

/// Reads a message whose names are known.
pub(super) fn from_json<'de>(
    message: &MessageDescriptor,
    json: impl Deserializer<'de>,
) -> Result<DynamicMessage, Status> {
    let mut track = serde_path_to_error::Track::new();
    let json = serde_path_to_error::Deserializer::new(json, &mut track);
    let read =
        DynamicMessage::deserialize_with_options(message.clone(), json, &DeserializeOptions::new());
    read.map_err(|error| {
        let path = track.path().to_string();
        let error = error.to_string();
        // Only the end of the text is free of values.
        let expected = error
            .rsplit_once(", expected ")
            .map(|(_, expected)| expected);
        let expected = expected.map(|text| text.split(" at line ").next().unwrap_or(text));
        let reason = match expected {
            Some(expected) => format!("takes {expected}"),
            None => "is not in the JSON form of its type".to_owned(),
        };
        let field = match path.as_str() {
            "." => Cow::Borrowed("body"),
            _ => Cow::Owned(path),
        };
        ServiceError::from(FieldError { field, reason }).into()
    })
}

/// Writes an encoded message as JSON.
pub(super) fn write(message: &MessageDescriptor, encoded: Bytes) -> Result<Bytes, Status> {
    let internal = || Status::from(ServiceError::Internal);
    let message = DynamicMessage::decode(message.clone(), encoded).map_err(|_| internal())?;
    serde_json::to_vec(&message)
        .map(Bytes::from)
        .map_err(|_| internal())
}

/// Checks the names in a JSON text: those of `message`, if it is one.
struct Strict<'m> {
    message: Option<&'m MessageDescriptor>,
}

/// The message of a field whose JSON form is an object of fields.
pub(super) fn nested(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message)
            if !field.is_map() && !message.full_name().starts_with("google.protobuf.") =>
        {
            Some(message)
        }
        _ => None,
    }
}

/// The field that JSON calls `name`.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    let field = message.get_field_by_json_name(name);
    field.or_else(|| message.get_field_by_name(name))
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let found = match self.message {
                Some(message) => Some(field(message, &name).ok_or_else(|| {
                    let (name, message) = (shown(&name), message.name());
                    A::Error::custom(format!("{message} has no field '{name}'"))
                })?),
                None => None,
            };
            let inner = found.as_ref().and_then(nested);
            let name = found.map_or(name, |field| field.name().to_owned());
            if let Some(twice) = seen.replace(name) {
                let twice = shown(&twice);
                return Err(A::Error::custom(format!(
                    "the field '{twice}' is given twice"
                )));
            }
            map.next_value_seed(Strict {
                message: inner.as_ref(),
            })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let message = self.message;
        while elements.next_element_seed(Strict { message })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
