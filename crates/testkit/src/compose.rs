//! Reads the parts of a Compose file that a deployment on this machine needs: commands, variables,
//! secrets, mounts, health checks and dependencies.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A Compose file.
pub struct Compose(Value);

/// The command of a health check: a program and its arguments.
pub(crate) type Check = Vec<String>;

impl Compose {
    /// Parses `text` and replaces `${NAME}` by `variables`.
    ///
    /// # Panics
    ///
    /// The file cannot be parsed, or a variable has neither a value nor a default.
    pub fn read(text: &str, variables: &BTreeMap<String, String>) -> Self {
        let text = interpolate(text, variables);
        Self(serde_saphyr::from_str(&text).expect("the compose file is YAML"))
    }

    /// The services by name.
    pub fn services(&self) -> &Map<String, Value> {
        self.0["services"].as_object().expect("there are services")
    }

    /// The files of the secrets by name, as written in the Compose file.
    pub fn secret_files(&self) -> Vec<(&str, &str)> {
        let secrets = self.0["secrets"].as_object().expect("there are secrets");
        let files = secrets.iter();
        files
            .map(|(name, secret)| (name.as_str(), text(&secret["file"])))
            .collect()
    }

    /// The services, each after its dependencies.
    pub fn in_order(&self) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        while order.len() < self.services().len() {
            let ready = self.services().iter().find(|(name, service)| {
                let needed = service["depends_on"].as_object();
                let mut needed = needed.iter().flat_map(|needed| needed.keys());
                !order.contains(&name.as_str())
                    && needed.all(|needed| order.contains(&needed.as_str()))
            });
            order.push(ready.expect("no service depends on itself").0);
        }
        order
    }

    pub(crate) fn image(&self, service: &str) -> &str {
        let image = text(&self.services()[service]["image"]);
        image.split(':').next().unwrap_or(image)
    }

    pub(crate) fn command(&self, service: &str) -> Vec<String> {
        texts(&self.services()[service]["command"])
    }

    pub(crate) fn environment(&self, service: &str) -> Vec<(&str, &str)> {
        let variables = self.services()[service]["environment"].as_object();
        let variables = variables.into_iter().flatten();
        variables
            .map(|(name, value)| (name.as_str(), text(value)))
            .collect()
    }

    /// The mounts: the source as written in the file, and the path in the container.
    pub(crate) fn mounts(&self, service: &str) -> Vec<(String, String)> {
        let mounts = texts(&self.services()[service]["volumes"]);
        let split = mounts.iter().map(|mount| {
            let (source, rest) = mount.split_once(':').expect("SOURCE:TARGET");
            (source, rest.split(':').next().unwrap_or(rest))
        });
        split.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// Whether the service runs once and ends.
    pub(crate) fn is_once(&self, service: &str) -> bool {
        self.services()[service]["restart"] == "no"
    }

    /// The health check, if there is one that needs no shell.
    pub(crate) fn check(&self, service: &str) -> Option<Check> {
        let test = &self.services()[service]["healthcheck"]["test"];
        let mut words = (!test.is_null()).then(|| texts(test))?;
        (words.remove(0) == "CMD").then_some(words)
    }
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// An array of strings; empty for null.
fn texts(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.map(|value| text(value).to_owned()).collect()
}

/// Replaces `${NAME}`, `${NAME:-default}` and `${NAME:?error}`.
fn interpolate(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after.split_once('}').expect("a variable ends");
        let (name, otherwise) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside.split(":?").next().unwrap_or(inside), None),
        };
        let value = variables.get(name).map(String::as_str).or(otherwise);
        done.push_str(before);
        done.push_str(value.unwrap_or_else(|| panic!("{name} has no value")));
        rest = after;
    }
    done + rest
}
