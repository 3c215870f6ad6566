//! The settings of webhooks.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use keyward_core::key::SlotName;
use keyward_ops::settings::values::{Url, duration, optional, path, shown};
use keyward_ops::settings::{Entry, Schema, Setting, Takes, tables};

use super::values::text_of;
use crate::webhooks::Endpoint;
use keyward_store::EventKind;

const MAX_WEBHOOKS: usize = 16;

/// The values of one table.
#[derive(Clone, Debug, Default)]
struct Values {
    name: String,
    url: Option<Url>,
    secret_file: Option<PathBuf>,
    events: Option<Vec<EventKind>>,
}

type Row = Setting<Values>;

const TABLE: &[Setting<Values>] = &[
    Row::new("name", Takes::Value("NAME"), "", "Its name", |v, text| {
        let name = SlotName::new("name", text.to_owned());
        let name = name.map_err(|_| "takes 1 to 64 of A-Z a-z 0-9 . _ -".to_owned())?;
        v.name = name.to_string();
        Ok(())
    }),
    Row::new(
        "url",
        Takes::Value("URL"),
        "",
        "Where events are sent",
        |v, text| url(text).map(|url| v.url = Some(url)),
    ),
    Row::new(
        "secret_file",
        Takes::Value("FILE"),
        "",
        "Its secret",
        |v, text| path(text).map(|path| v.secret_file = Some(path)),
    ),
    Row::new(
        "events",
        Takes::List("EVENTS"),
        "",
        "Which events",
        |v, text| {
            let kinds = text.split(',').map(|name| EventKind::parse(name.trim()));
            v.events = kinds.collect();
            let known = EventKind::ALL.map(EventKind::name).join(", ");
            let is_known = v.events.is_some();
            is_known
                .then_some(())
                .ok_or_else(|| format!("takes some of {known}"))
        },
    ),
];

impl Schema for Values {
    const PREFIX: &'static str = "";
    const FILE: &'static str = "";
    const TABLE: &'static [Setting<Self>] = TABLE;

    fn check(&mut self, _: &[Entry], _: &mut Vec<String>) {}
}

pub(super) fn webhooks(text: &str) -> Result<Vec<Endpoint>, String> {
    Ok(optional(text, endpoints)?.unwrap_or_default())
}

/// The webhooks in the form in which `webhooks` reads them. The path of a URL can be a secret, so it is left out.
pub(super) fn shown_webhooks(webhooks: &[Endpoint]) -> String {
    // A JSON text is a TOML text, too.
    let table = |webhook: &Endpoint| {
        let events = webhook.events.iter().map(|kind| kind.name());
        format!(
            "{{name = {}, url = {}, secret_file = {}, events = {}}}",
            json!(webhook.name),
            json!(webhook.url.origin()),
            json!(text_of(&webhook.secret_file)),
            json!(events.collect::<Vec<_>>()),
        )
    };
    let tables = webhooks.iter().map(table).collect::<Vec<_>>().join(", ");
    shown((!tables.is_empty()).then(|| format!("[{tables}]")).as_ref())
}

fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
    let values = tables(text, &Values::default(), |_| true)?;
    if values.len() > MAX_WEBHOOKS {
        return Err(format!("takes at most {MAX_WEBHOOKS} tables"));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (number, values) in (1..).zip(values) {
        let missing = |key| format!("table {number}: {key} is missing");
        if values.name.is_empty() {
            return Err(missing("name"));
        }
        if endpoints.iter().any(|known| known.name == values.name) {
            return Err(format!("table {number}: the name is in another table"));
        }
        endpoints.push(Endpoint {
            name: values.name,
            url: values.url.ok_or_else(|| missing("url"))?,
            secret_file: values.secret_file.ok_or_else(|| missing("secret_file"))?,
            events: values.events.unwrap_or_else(|| EventKind::ALL.to_vec()),
        });
    }
    Ok(endpoints)
}

fn url(text: &str) -> Result<Url, String> {
    let url = Url::new(text)?;
    if url.has_user() {
        return Err("takes a URL without a user".to_owned());
    }
    match url.is_https() || url.is_local() {
        true => Ok(url),
        false => Err("leads to another host without TLS: write https".to_owned()),
    }
}

pub(super) fn webhook_timeout(text: &str) -> Result<Duration, String> {
    duration(
        text,
        Duration::from_secs(1)..=Duration::from_secs(60),
        "1s to 60s",
    )
}

pub(super) fn expiry_notice(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(365 * 24 * 3_600);
    duration(text, Duration::from_secs(60)..=most, "1m to 365d")
}
