//! Reads a compose file as far as a deployment on this machine needs it: commands, variables, secrets,
//! mounts, health checks, and what depends on what.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A compose file.
pub struct Compose(Value);

/// What a health check runs: a program and its arguments.
pub(crate) type Check = Vec<String>;

impl Compose {
    /// Reads `text`, with `variables` in place of `${NAME}`.
    ///
    /// # Panics
    ///
    /// When it cannot be read, and when a variable is neither given nor has a default.
    pub fn read(text: &str, variables: &BTreeMap<String, String>) -> Self {
        let text = interpolate(text, variables);
        Self(serde_saphyr::from_str(&text).expect("the compose file is YAML"))
    }

    /// The services, by their names.
    pub fn services(&self) -> &Map<String, Value> {
        self.0["services"].as_object().expect("there are services")
    }

    /// The files of the secrets, by their names, as the compose file names them.
    pub fn secret_files(&self) -> Vec<(&str, &str)> {
        let secrets = self.0["secrets"].as_object().expect("there are secrets");
        let files = secrets.iter();
        files
            .map(|(name, secret)| (name.as_str(), text(&secret["file"])))
            .collect()
    }

    /// The services in an order in which each comes after those that it depends on.
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

    /// What is mounted: the source as the file names it, and the path in the container.
    pub(crate) fn mounts(&self, service: &str) -> Vec<(String, String)> {
        let mounts = texts(&self.services()[service]["volumes"]);
        let split = mounts.iter().map(|mount| {
            let (source, rest) = mount.split_once(':').expect("SOURCE:TARGET");
            (source, rest.split(':').next().unwrap_or(rest))
        });
        split.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// Whether it runs once, to its end.
    pub(crate) fn is_once(&self, service: &str) -> bool {
        self.services()[service]["restart"] == "no"
    }

    /// Its health check, if it has one that needs no shell.
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

/// An array of texts; nothing of null.
fn texts(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values.map(|value| text(value).to_owned()).collect()
}

/// Puts variables in place of `${NAME}`, `${NAME:-default}` and `${NAME:?error}`.
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
