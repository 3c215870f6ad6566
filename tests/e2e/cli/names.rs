//! Compares the names in JSON output with the field names of the wire.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::Value;

/// Fails unless the names in `json` are exactly the field names of `message`, at every depth.
#[track_caller]
pub(super) fn same_names(json: &Value, message: &str) {
    let set = FileDescriptorSet::decode(keyward_proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages: Vec<DescriptorProto> = set
        .file
        .into_iter()
        .flat_map(|file| file.message_type)
        .collect();
    compare(json, message, &messages);
}

#[track_caller]
fn compare(json: &Value, message: &str, messages: &[DescriptorProto]) {
    let found = messages.iter().find(|found| found.name() == message);
    let fields = &found
        .unwrap_or_else(|| panic!("no message {message}"))
        .field;
    let object = json
        .as_object()
        .unwrap_or_else(|| panic!("{json} is not a {message}"));
    let shown: BTreeSet<_> = object.keys().map(String::as_str).collect();
    // The command line keeps nothing, so it never asks for what a near-cache keeps.
    let wanted = fields.iter().filter(|field| field.name() != "cache_entry");
    let wire: BTreeSet<_> = wanted.clone().map(|field| field.name()).collect();
    assert_eq!(shown, wire, "{message}");
    for field in wanted.filter(|field| field.r#type() == Type::Message) {
        let inner = field.type_name().rsplit('.').next().unwrap();
        let ours = messages.iter().any(|message| message.name() == inner);
        let ours = ours && field.type_name().starts_with(".keyward.v1.");
        for value in values(&json[field.name()]).iter().filter(|_| ours) {
            compare(value, inner, messages);
        }
    }
}

/// The elements of an array, or a single value, or nothing for null.
fn values(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(values) => values.iter().collect(),
        one => vec![one],
    }
}
