//! The OpenAPI document says what the proto files say: routes, fields, their types and comments.
//!
//! After a change of the proto files, `make openapi` generates it.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use keyward_proto::{FILE_DESCRIPTOR_SET, OPENAPI};
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor,
    FileDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value as Reflected,
};
use secret::is_secret;
use serde_json::{Map, Value, json};

mod secret;

/// The document and the descriptors.
struct Facts {
    document: Value,
    pool: DescriptorPool,
}

/// One `google.api.http` rule of a method.
struct Route {
    verb: String,
    /// With the names of the document: `/v1/keys/{key_id}` for `/v1/keys/{key.key_id}`.
    path: String,
    /// The fields in the path, such as `key.key_id`.
    variables: Vec<String>,
    /// The field that is the body, `*` for the whole request, or empty.
    body: String,
    method: MethodDescriptor,
}

impl Facts {
    fn load() -> Self {
        Self {
            document: serde_json::from_str(OPENAPI).unwrap(),
            pool: DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap(),
        }
    }

    fn extension(&self, name: &str) -> ExtensionDescriptor {
        self.pool.get_extension_by_name(name).unwrap()
    }

    fn routes(&self) -> Vec<Route> {
        let http = self.extension("google.api.http");
        // Envoy's service has no JSON form.
        let services = self.pool.services();
        let services = services.filter(|service| service.package_name() == "keyward.v1");
        let mut routes = Vec::new();
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        // A stream has no JSON form.
        for method in methods.filter(|method| !method.is_client_streaming()) {
            let options = method.options();
            assert!(options.has_extension(&http), "{}", method.full_name());
            let first = options.get_extension(&http).as_message().unwrap().clone();
            let more = first.get_field_by_name("additional_bindings").unwrap();
            let more = more.as_list().unwrap().iter();
            let more = more.map(|rule| Route::of(rule.as_message().unwrap(), &method));
            routes.push(Route::of(&first, &method));
            routes.extend(more);
        }
        routes
    }

    fn operation(&self, route: &Route) -> &Value {
        &self.document["paths"][&route.path][&route.verb]
    }

    /// Whether a request must contain the field.
    fn is_required(&self, field: &FieldDescriptor) -> bool {
        let options = field.options();
        let behavior = options.get_extension(&self.extension("google.api.field_behavior"));
        let required = Reflected::EnumNumber(2);
        behavior.as_list().unwrap().contains(&required)
    }

    /// The query parameters of a route. A secret is not one of them.
    fn query(&self, route: &Route) -> BTreeMap<String, Value> {
        let request = route.method.input();
        let fields = request.fields().filter(|field| {
            let name = field.name();
            let is_in_path = route.variables.iter().any(|variable| variable == name);
            route.body != "*" && route.body != name && !is_in_path && !is_secret(field)
        });
        let parameter = |field: FieldDescriptor| {
            let mut schema = schema(&field);
            let description = schema.remove("description").unwrap();
            let mut parameter = json!({
                "name": field.json_name(), "in": "query", "description": description, "schema": schema,
            });
            if self.is_required(&field) {
                parameter["required"] = Value::Bool(true);
            }
            (field.json_name().to_owned(), parameter)
        };
        fields.map(parameter).collect()
    }
}

impl Route {
    fn of(rule: &DynamicMessage, method: &MethodDescriptor) -> Self {
        let text = |name| {
            let value = rule.get_field_by_name(name).unwrap();
            value.as_str().unwrap().to_owned()
        };
        let verbs = ["get", "put", "post", "delete", "patch"];
        let verb = verbs.into_iter().find(|verb| !text(verb).is_empty());
        let verb = verb.unwrap_or_else(|| panic!("{}: no verb", method.full_name()));
        let (mut path, mut variables) = (String::new(), Vec::new());
        for part in text(verb).split_inclusive(['{', '}']) {
            match part.strip_suffix('}') {
                Some(variable) => {
                    variables.push(variable.to_owned());
                    path += last_part(variable);
                    path.push('}');
                }
                None => path += part,
            }
        }
        Self {
            verb: verb.to_owned(),
            path,
            variables,
            body: text("body"),
            method: method.clone(),
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.verb, self.path)
    }

    /// The message that the body of a request holds.
    fn body_message(&self) -> Option<MessageDescriptor> {
        match self.body.as_str() {
            "" => None,
            "*" => Some(self.method.input()),
            name => {
                let field = self.method.input().get_field_by_name(name).unwrap();
                Some(field.kind().as_message().unwrap().clone())
            }
        }
    }
}

/// The name under which a field of the path is a parameter.
fn last_part(variable: &str) -> &str {
    variable.rsplit('.').next().unwrap_or(variable)
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The comment of the declaration at `path` of a proto file.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let place = info.unwrap().location.iter().find(|at| at.path == path);
    let text = place.and_then(|place| place.leading_comments.as_deref());
    text.unwrap_or_default().trim().replace("\n ", "\n")
}

/// The schema of a field, with its comment.
fn schema(field: &FieldDescriptor) -> Map<String, Value> {
    let of_value = |field: &FieldDescriptor| match field.kind() {
        Kind::Message(message) => reference(message.full_name()),
        Kind::Enum(values) => reference(values.full_name()),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "format": "byte" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
        Kind::Uint32 => json!({ "type": "integer", "format": "uint32" }),
        Kind::Int64 => json!({ "type": "string", "format": "int64" }),
        Kind::Uint64 => json!({ "type": "string", "format": "uint64" }),
        other => panic!("{}: which schema has {other:?}?", field.full_name()),
    };
    let mut schema = if field.is_map() {
        let entry = field.kind().as_message().unwrap().clone();
        let value = of_value(&entry.map_entry_value_field());
        json!({ "type": "object", "additionalProperties": value })
    } else if field.is_list() {
        json!({ "type": "array", "items": of_value(field) })
    } else {
        of_value(field)
    };
    if field.field_descriptor_proto().proto3_optional() {
        schema["type"] = json!([schema["type"], "null"]);
    }
    if is_secret(field) {
        let is_sent = is_sent(field.parent_message().name());
        schema["format"] = json!("password");
        schema[if is_sent { "writeOnly" } else { "readOnly" }] = json!(true);
    }
    schema["description"] = json!(comment(&field.parent_file(), field.path()));
    schema.as_object().unwrap().clone()
}

/// Whether a message is a request or a part of one.
fn is_sent(message: &str) -> bool {
    message.ends_with("Request") || message.ends_with("ImportKey")
}

#[test]
fn every_route_is_in_the_document_and_no_other() {
    let facts = Facts::load();
    let routes = facts.routes();
    let expected: BTreeSet<_> = routes.iter().map(Route::name).collect();
    assert_eq!(
        expected.len(),
        routes.len(),
        "two methods share a route: {expected:?}"
    );

    let paths = facts.document["paths"].as_object().unwrap();
    let found: BTreeSet<_> = paths
        .iter()
        .filter(|(path, _)| *path != "/auth")
        .flat_map(|(path, verbs)| {
            let verbs = verbs.as_object().unwrap().keys();
            verbs.map(move |verb| format!("{verb} {path}"))
        })
        .collect();
    assert_eq!(found, expected, "run `make openapi`");
}

#[test]
fn every_route_takes_its_request_and_returns_its_response() {
    let facts = Facts::load();
    for route in facts.routes() {
        let (name, operation) = (route.name(), facts.operation(&route));
        let (path, query): (Vec<_>, Vec<_>) = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .partition(|parameter| parameter["in"] == "path");

        let found: Vec<_> = path
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let variables = route.variables.iter();
        let expected: Vec<_> = variables.map(|name| last_part(name)).collect();
        assert_eq!(found, expected, "{name}");
        let query = query.into_iter().cloned();
        let query: BTreeMap<_, _> = query
            .map(|parameter| (parameter["name"].as_str().unwrap().to_owned(), parameter))
            .collect();
        assert_eq!(query, facts.query(&route), "{name}: run `make openapi`");

        let body = &operation["requestBody"];
        match route.body_message() {
            Some(message) => {
                assert_eq!(body["required"], true, "{name}");
                let expected = reference(message.full_name());
                assert_eq!(
                    body["content"]["application/json"]["schema"], expected,
                    "{name}"
                );
            }
            None => assert!(body.is_null(), "{name}"),
        }
        let expected = reference(route.method.output().full_name());
        let response = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(*response, expected, "{name}");
        let error = &operation["responses"]["default"]["$ref"];
        assert_eq!(error, "#/components/responses/Error", "{name}");
        // The security of the whole document holds.
        assert!(operation["security"].is_null(), "{name}");
    }
}

#[test]
fn every_message_and_enum_is_in_the_document() {
    let facts = Facts::load();
    let (mut messages, mut enums) = (BTreeMap::new(), BTreeMap::new());
    let mut open: Vec<_> = facts
        .routes()
        .iter()
        .flat_map(|route| [route.body_message(), Some(route.method.output())])
        .flatten()
        .collect();
    while let Some(message) = open.pop() {
        let is_ours = message.package_name() == "keyward.v1";
        if !is_ours || messages.contains_key(message.full_name()) {
            continue;
        }
        for field in message.fields() {
            match field.kind() {
                Kind::Message(inner) if !field.is_map() => open.push(inner),
                Kind::Enum(values) => drop(enums.insert(values.full_name().to_owned(), values)),
                _ => {}
            }
        }
        messages.insert(message.full_name().to_owned(), message);
    }

    let schemas = facts.document["components"]["schemas"].as_object().unwrap();
    let found = schemas
        .keys()
        .filter(|name| name.starts_with("keyward.v1."));
    let found: BTreeSet<_> = found.collect();
    let expected: BTreeSet<_> = messages.keys().chain(enums.keys()).collect();
    assert_eq!(found, expected, "run `make openapi`");
    for (name, message) in &messages {
        is_described(&facts, message, &schemas[name]);
    }
    for (name, values) in &enums {
        lists_every_value(values, &schemas[name]);
    }
}

fn is_described(facts: &Facts, message: &MessageDescriptor, schema: &Value) {
    let name = message.full_name();
    assert_eq!(schema["type"], "object", "{name}");
    let expected = comment(&message.parent_file(), message.path());
    assert_eq!(
        schema["description"], expected,
        "{name}: run `make openapi`"
    );

    let properties = message.fields().map(|field| {
        let property = Value::Object(crate::schema(&field));
        (field.json_name().to_owned(), property)
    });
    let properties = Value::Object(properties.collect());
    // A message without fields has none.
    let found = schema.get("properties").cloned();
    let found = found.unwrap_or_else(|| json!({}));
    assert_eq!(found, properties, "{name}: run `make openapi`");

    let required = message.fields().filter(|field| facts.is_required(field));
    let required: Vec<_> = required.map(|field| json!(field.json_name())).collect();
    let found = schema["required"].as_array().cloned();
    assert_eq!(found.unwrap_or_default(), required, "{name}");
    // A later version may add fields to a response.
    let is_closed = schema["additionalProperties"] == false;
    assert_eq!(is_closed, is_sent(name), "{name}");
}

fn lists_every_value(values: &EnumDescriptor, schema: &Value) {
    let name = values.full_name();
    let expected: Vec<_> = values.values().map(|value| json!(value.name())).collect();
    assert_eq!(schema["enum"], Value::Array(expected), "{name}");
    let mut description = comment(&values.parent_file(), values.path()) + "\n";
    for value in values.values() {
        let comment = comment(&values.parent_file(), value.path()).replace('\n', "\n  ");
        description += &format!("\n- `{}`: {comment}", value.name());
    }
    assert_eq!(
        schema["description"], description,
        "{name}: run `make openapi`"
    );
}

/// Whatever the proto files say.
#[test]
fn no_secret_is_in_a_path_or_query() {
    let facts = Facts::load();
    let messages = facts.pool.all_messages();
    let secrets: BTreeSet<_> = messages
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(is_secret)
        .flat_map(|field| [field.name().to_owned(), field.json_name().to_owned()])
        .collect();
    assert!(secrets.contains("apiKey"), "{secrets:?}");

    let paths = facts.document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    for operation in operations {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let is_secret = name.split('.').any(|part| secrets.contains(part));
            let is_in_header = parameter["in"] == "header";
            assert!(is_in_header || !is_secret, "{parameter}");
        }
    }
}

#[test]
fn the_document_has_the_version_of_the_service() {
    let version = &Facts::load().document["info"]["version"];
    assert_eq!(version, env!("CARGO_PKG_VERSION"), "run `make openapi`");
}
