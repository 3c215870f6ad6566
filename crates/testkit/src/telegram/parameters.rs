//! The arguments of a call. In a form, numbers and objects are text.

use serde_json::{Map, Value};

/// Reads arguments as leniently as the Bot API.
pub(super) trait Parameters {
    /// The value, or the parsed JSON of a form's text.
    fn value(&self, name: &str) -> Option<Value>;
    /// A string.
    fn text(&self, name: &str) -> Option<String>;
    /// An integer.
    fn number(&self, name: &str) -> Option<i64>;
    /// A Boolean.
    fn is_set(&self, name: &str) -> bool;
}

impl Parameters for Map<String, Value> {
    fn value(&self, name: &str) -> Option<Value> {
        match self.get(name)? {
            Value::Null => None,
            Value::String(text) => serde_json::from_str(text).ok(),
            value => Some(value.clone()),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            value => Some(value.to_string()),
        }
    }

    fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_i64(),
        }
    }

    fn is_set(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            Some(value) => value == &Value::Bool(true),
            None => false,
        }
    }
}
