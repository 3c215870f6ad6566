//! The page of the JSON API has the tables of the OpenAPI document. `UPDATE_DOCS=1` writes them.

use serde_json::Value;

use crate::read;
use crate::readme::{settle, with_table};

const PAGE: &str = "docs/reference/http.md";

#[test]
fn the_tables_of_the_json_api_are_those_of_its_document() {
    let document: Value = serde_json::from_str(keyward_proto::OPENAPI).unwrap();
    let page = with_table(&read(PAGE), "routes", &routes(&document));
    let page = with_table(&page, "codes", &codes(&document));
    settle(PAGE, &page);
}

fn routes(document: &Value) -> String {
    let mut table =
        String::from("| route | RPC | query | body | response |\n|---|---|---|---|---|\n");
    for (path, verbs) in document["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            let json = |of: &Value| message(&of["content"]["application/json"]["schema"]);
            let cells = [
                format!("`{} {path}`", verb.to_uppercase()),
                rpc(operation),
                query(operation),
                json(&operation["requestBody"]),
                json(&operation["responses"]["200"]),
            ];
            table += &format!("| {} |\n", cells.join(" | "));
        }
    }
    table
}

/// The name of the RPC. `/auth` is not an RPC and has only a group.
fn rpc(operation: &Value) -> String {
    let id = operation["operationId"].as_str().unwrap();
    match id.split_once('_') {
        // The generator numbers the further routes of an RPC.
        Some((_, rpc)) => format!("`{}`", rpc.trim_end_matches(char::is_numeric)),
        None => operation["tags"][0].as_str().unwrap().to_owned(),
    }
}

/// The query parameters, the required ones first and in bold.
fn query(operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let (required, optional): (Vec<_>, Vec<_>) = parameters
        .filter(|parameter| parameter["in"] == "query")
        .partition(|parameter| parameter["required"] == true);
    let name = |parameter: &Value| parameter["name"].as_str().unwrap().to_owned();
    let required = required.into_iter().map(|it| format!("**`{}`**", name(it)));
    let optional = optional.into_iter().map(|it| format!("`{}`", name(it)));
    required.chain(optional).collect::<Vec<_>>().join(", ")
}

/// The name of the message to which a schema refers.
fn message(schema: &Value) -> String {
    let reference = schema["$ref"].as_str().unwrap_or_default();
    match reference.rsplit_once('.') {
        Some((_, name)) => format!("`{name}`"),
        None => String::new(),
    }
}

/// The table in the description of the error.
fn codes(document: &Value) -> String {
    let error = &document["components"]["responses"]["Error"];
    let description = error["description"].as_str().unwrap();
    let table = &description[description.find('|').unwrap()..];
    format!("{}\n", table.trim_end())
}
