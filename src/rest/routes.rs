//! The routes of the JSON port: the `google.api.http` annotations of the proto files.

use std::collections::HashMap;
use std::fmt;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use keyward_core::key::{FieldError, shown};
use keyward_proto::FILE_DESCRIPTOR_SET;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
    Value,
};
use serde_json::{Map, Value as Json};
use tonic::Status;
use url::form_urlencoded;

use super::failure::Failure;
use super::json;
use crate::grpc::{self, RequestBody, Services};
use crate::service::ServiceError;

/// The proto files have an annotation that no route can serve.
#[derive(Debug, thiserror::Error)]
#[error("the proto files have a wrong route: {0}")]
pub struct WrongRoute(String);

impl WrongRoute {
    fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// All routes, by their path. A path ends with `{}` if its last segment is a variable.
pub(super) struct Routes {
    by_path: HashMap<String, Vec<Route>>,
    status: MessageDescriptor,
}

/// What the routes have for a request.
pub(super) enum Found<'r> {
    /// Its route, and the last segment of its path if that is a variable.
    Route(&'r Route, Option<&'r str>),
    /// The path has routes for these methods only.
    OtherMethods(String),
    /// Nothing has this path.
    Nothing,
}

/// One way to call a method.
pub(super) struct Route {
    verb: Method,
    /// The path of the method in gRPC.
    method: Uri,
    request: MessageDescriptor,
    response: MessageDescriptor,
    /// The path of the field that the variable of the path sets.
    variable: Option<String>,
    body: Body,
}

/// What the body of a request is.
#[derive(Clone)]
enum Body {
    /// Nothing: the query has the fields.
    None,
    /// The whole message.
    Message,
    /// This field, a message; the query has the others.
    Field(FieldDescriptor, MessageDescriptor),
}

impl Routes {
    pub(super) fn new() -> Result<Self, WrongRoute> {
        let mut pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(WrongRoute::new)?;
        pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .map_err(WrongRoute::new)?;
        let missing = |name: &str| WrongRoute(format!("{name} is missing"));
        let status = "google.rpc.Status";
        let status = pool
            .get_message_by_name(status)
            .ok_or_else(|| missing(status))?;
        let annotation = "google.api.http";
        let annotation = pool
            .get_extension_by_name(annotation)
            .ok_or_else(|| missing(annotation))?;
        let mut by_path: HashMap<String, Vec<Route>> = HashMap::new();
        for method in pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            let options = method.options();
            if !options.has_extension(&annotation) {
                continue;
            }
            let rule = options.get_extension(&annotation);
            for (path, route) in routes_of(&method, &rule)? {
                by_path.entry(path).or_default().push(route);
            }
        }
        Ok(Self { by_path, status })
    }

    /// The descriptor of `google.rpc.Status`.
    pub(super) fn status(&self) -> &MessageDescriptor {
        &self.status
    }

    pub(super) fn find<'r>(&'r self, verb: &Method, path: &'r str) -> Found<'r> {
        let whole = self.by_path.get(path);
        let (routes, variable) = match whole.filter(|_| !path.ends_with("{}")) {
            Some(routes) => (routes, None),
            None => {
                let (start, last) = path.rsplit_once('/').unwrap_or(("", path));
                match self.by_path.get(&format!("{start}/{{}}")) {
                    Some(routes) => (routes, Some(last)),
                    None => return Found::Nothing,
                }
            }
        };
        let verb = if *verb == Method::HEAD {
            &Method::GET
        } else {
            verb
        };
        match routes.iter().find(|route| route.verb == *verb) {
            Some(route) => Found::Route(route, variable),
            None => {
                let verbs = routes.iter().map(|route| route.verb.as_str());
                Found::OtherMethods(verbs.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The routes of an annotation, each with its path.
fn routes_of(method: &MethodDescriptor, rule: &Value) -> Result<Vec<(String, Route)>, WrongRoute> {
    let wrong = |what: &str| WrongRoute(format!("{}: {what}", method.full_name()));
    let rule = rule.as_message().ok_or_else(|| wrong("no rule"))?;
    let text = |name: &str| {
        let value = rule.get_field_by_name(name)?;
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let verbs = [
        Method::GET,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::PATCH,
    ];
    let mut verbs = verbs.into_iter();
    let (verb, template) = verbs
        .find_map(|verb| Some((verb.clone(), text(&verb.as_str().to_ascii_lowercase())?)))
        .ok_or_else(|| wrong("no method and path"))?;
    let (path, variable) = match template.split_once('{') {
        None => (template, None),
        Some((start, rest)) => {
            let name = rest
                .strip_suffix('}')
                .filter(|name| !name.contains(['{', '*', '=', '/']));
            let name = name.ok_or_else(|| wrong("a variable must be the last segment"))?;
            (format!("{start}{{}}"), Some(name.to_owned()))
        }
    };
    let (request, response) = (method.input(), method.output());
    let body = match text("body").as_deref() {
        None => Body::None,
        Some("*") => Body::Message,
        Some(name) => {
            let field = request.get_field_by_name(name);
            let message = field.as_ref().and_then(json::nested);
            let whole = field.zip(message);
            let (field, message) = whole.ok_or_else(|| wrong("the body is no message"))?;
            Body::Field(field, message)
        }
    };
    let method_path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let route = Route {
        verb,
        method: method_path.parse().map_err(WrongRoute::new)?,
        request,
        response,
        variable,
        body,
    };
    let mut routes = vec![(path, route)];
    let more = rule.get_field_by_name("additional_bindings");
    for rule in more.iter().filter_map(|more| more.as_list()).flatten() {
        routes.extend(routes_of(method, rule)?);
    }
    Ok(routes)
}

impl Route {
    /// Calls the method, and returns its response as JSON.
    pub(super) async fn call(
        &self,
        parts: &Parts,
        variable: Option<&str>,
        mut body: RequestBody,
        metadata: HeaderMap,
        services: &Services,
    ) -> Result<Bytes, Failure> {
        let fields = self.fields(variable, parts.uri.query())?;
        if !matches!(self.body, Body::None) && !is_json(&parts.headers) {
            return Err(Failure::not_json());
        }
        let (request, kind, here) = (self.request.clone(), self.body.clone(), services.clone());
        let message = async move {
            let json = match kind {
                Body::None => Bytes::new(),
                _ => body.whole().await?,
            };
            let bytes = json.len();
            let encode = move || encoded(request, kind, &json, &fields);
            // The bytes count until they are converted.
            let encoded = here.convert(bytes, encode).await;
            drop(body);
            encoded
        };
        let answer = services.call(&self.method, metadata, message).await?;
        let (response, bytes) = (self.response.clone(), answer.len());
        let write = move || json::write(&response, answer);
        Ok(services.convert(bytes, write).await?)
    }

    /// The fields that path and query set.
    fn fields(
        &self,
        variable: Option<&str>,
        query: Option<&str>,
    ) -> Result<DynamicMessage, Status> {
        let mut fields = Map::new();
        if let (Some(name), Some(segment)) = (&self.variable, variable) {
            let text = percent_decode_str(segment).decode_utf8();
            let text = text.map_err(|_| grpc::undecodable("the path is not UTF-8"))?;
            self.set(&mut fields, name, &text)?;
        }
        for (name, text) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if matches!(self.body, Body::Message) {
                return Err(grpc::undecodable(
                    "this route takes its fields from the body, not from the query",
                ));
            }
            if text.contains(char::REPLACEMENT_CHARACTER) {
                return Err(grpc::undecodable("the query is not UTF-8"));
            }
            self.set(&mut fields, &name, &text)?;
        }
        if fields.is_empty() {
            return Ok(DynamicMessage::new(self.request.clone()));
        }
        json::from_json(&self.request, Json::Object(fields))
    }

    /// Sets the field at the path `name` to `text`.
    fn set(&self, fields: &mut Map<String, Json>, name: &str, text: &str) -> Result<(), Status> {
        let refused = |reason: &str| {
            let (field, reason) = (shown(name).into(), reason.to_owned());
            Status::from(ServiceError::from(FieldError { field, reason }))
        };
        let (mut message, mut object) = (self.request.clone(), fields);
        let mut names = name.split('.').peekable();
        while let Some(part) = names.next() {
            let field =
                json::field(&message, part).ok_or_else(|| refused("this field does not exist"))?;
            let name = field.name().to_owned();
            if names.peek().is_some() {
                let Some(inner) = json::nested(&field).filter(|_| !field.is_list()) else {
                    return Err(refused("this field has no fields"));
                };
                message = inner;
                let inner = object
                    .entry(name)
                    .or_insert_with(|| Json::Object(Map::new()));
                let Json::Object(inner) = inner else {
                    return Err(refused("this field is given twice"));
                };
                object = inner;
                continue;
            }
            if is_secret(&field) {
                return Err(refused(
                    "a secret is taken from a body only, because addresses are logged",
                ));
            }
            let value = value(&field, text);
            if field.is_list() {
                let list = object
                    .entry(name)
                    .or_insert_with(|| Json::Array(Vec::new()));
                list.as_array_mut()
                    .into_iter()
                    .for_each(|list| list.push(value.clone()));
            } else if object.insert(name, value).is_some() {
                return Err(refused("this field is given twice"));
            }
        }
        Ok(())
    }
}

/// The encoded message of a request: its body, and the `fields` of path and query.
fn encoded(
    request: MessageDescriptor,
    kind: Body,
    json: &[u8],
    fields: &DynamicMessage,
) -> Result<Vec<u8>, Status> {
    let mut encoded = match kind {
        Body::None => Vec::new(),
        Body::Message => json::read(&request, json)?.encode_to_vec(),
        Body::Field(field, message) => {
            let read = json::read(&message, json)?;
            agree(fields.get_field(&field).as_message(), &read)?;
            let mut whole = DynamicMessage::new(request);
            whole.set_field(&field, Value::Message(read));
            whole.encode_to_vec()
        }
    };
    // Protobuf merges what is encoded twice.
    let merged = fields.encode(&mut encoded);
    merged.map_err(|_| ServiceError::Internal)?;
    Ok(encoded)
}

/// Refuses a body that contradicts what the path says of the same message.
fn agree(path: Option<&DynamicMessage>, body: &DynamicMessage) -> Result<(), Status> {
    let mut said = path.into_iter().flat_map(DynamicMessage::fields);
    let differs = said
        .find(|(field, value)| body.has_field(field) && body.get_field(field).as_ref() != *value);
    match differs {
        Some((field, _)) => {
            let (field, reason) = (field.name().to_owned(), "is not the one in the path");
            Err(ServiceError::from(FieldError {
                field: field.into(),
                reason: reason.to_owned(),
            })
            .into())
        }
        None => Ok(()),
    }
}

/// A text of a query in the JSON form of its field. Numbers, names and times are strings in JSON, too.
fn value(field: &FieldDescriptor, text: &str) -> Json {
    match (field.kind(), text) {
        (Kind::Bool, "true") => Json::Bool(true),
        (Kind::Bool, "false") => Json::Bool(false),
        _ => Json::String(text.to_owned()),
    }
}

/// Whether the field is marked `debug_redact`.
fn is_secret(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options
        .get_field_by_name("debug_redact")
        .is_some_and(|mark| mark.as_bool() == Some(true))
}

/// Whether the body is announced as JSON, once and without compression.
fn is_json(headers: &HeaderMap) -> bool {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return false;
    }
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = values.next().filter(|_| values.next().is_none());
    let value = value.and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}
