//! Which fields are secret.

use protox::prost_reflect::{FieldDescriptor, Value};

/// Whether the field is marked `debug_redact`.
pub(crate) fn is_secret(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options
        .get_field_by_name("debug_redact")
        .is_some_and(|mark| *mark == Value::Bool(true))
}
