//! The documents are true: their commands are run and the output is compared, their tables are those
//! of the code. `UPDATE_DOCS=1` (or `make update-docs`) writes the current tables and outputs.
//!
//! Each block marked `console` holds `$ command` lines and their output. All commands of a document
//! run in order in one shell, against the real binary in an empty directory. A block marked
//! `LANGUAGE FILE` is written to that file before the next command.

use keyward_core::key::Verdict;
use keyward_ops::Metrics;
use prost::Message;
use prost_types::FileDescriptorSet;
use regex::Regex;

use crate::{path, read};
use transcript::Transcript;

mod screens;
mod shell;
mod story;
mod transcript;

/// The documents whose commands are run.
const TRANSCRIPTS: [&str; 4] = [
    "README.md",
    "docs/guide/agent.md",
    "docs/guide/first-key.md",
    "docs/guide/move-in.md",
];
/// The page that tells the story of the bot.
const STORY: &str = "docs/guide/bot.md";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_keyward");

pub(crate) fn updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1")
}

/// Fails if `document` is not `expected`, or rewrites it.
pub(crate) fn settle(document: &str, expected: &str) {
    let actual = read(document);
    if actual == expected {
        return;
    }
    if updating() {
        std::fs::write(path(document), expected).unwrap();
        return;
    }
    let differs = |(actual, expected): &(&str, &str)| actual != expected;
    let first = actual.lines().zip(expected.lines()).find(differs);
    panic!("{document} is outdated: {first:#?}\nrun `make update-docs` and read the difference");
}

#[test]
fn commands_print_what_the_documents_show() {
    for document in TRANSCRIPTS {
        let expected = Transcript::of(document, &read(document)).run();
        settle(document, &expected);
    }
}

#[test]
fn the_story_is_what_the_demo_prints() {
    settle(STORY, &story::with_story(&read(STORY)));
}

#[test]
fn tables_are_those_of_the_code() {
    for (page, name, table) in [
        ("errors", "errors", keyward::grpc::reasons_table()),
        ("settings", "settings", keyward::config::markdown()),
        ("settings", "agent", keyward::config::agent_markdown()),
        ("metrics", "metrics", Metrics::table()),
        ("metrics", "agent", keyward::app::AgentMetrics::table()),
    ] {
        let document = format!("docs/reference/{page}.md");
        settle(&document, &with_table(&read(&document), name, &table));
    }
}

/// Puts `table` between the marks `<!-- NAME -->` and `<!-- end -->`.
pub(crate) fn with_table(text: &str, name: &str, table: &str) -> String {
    let mark = format!("<!-- {name} -->\n");
    let begin = text.find(&mark).unwrap_or_else(|| panic!("no {mark}")) + mark.len();
    let end = begin + text[begin..].find("<!-- end -->").unwrap();
    [&text[..begin], table, &text[end..]].concat()
}

#[test]
fn the_api_page_names_every_rpc_with_its_role_and_every_verdict() {
    let text = read("docs/reference/api.md");
    let row = |name: &str| {
        let rows: Vec<_> = text
            .lines()
            .filter(|l| l.starts_with(&format!("| `{name}`")))
            .collect();
        assert_eq!(rows.len(), 1, "{name}: {rows:?}");
        rows[0].to_owned()
    };
    for verdict in Verdict::ALL {
        row(verdict.name());
    }
    let set = FileDescriptorSet::decode(keyward_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let mut methods: Vec<_> = services
        .flat_map(|service| &service.method)
        .map(|m| m.name())
        .collect();
    let protos = ["api_key_service", "admin_service"]
        .map(|name| read(&format!("proto/keyward/v1/{name}.proto")));
    methods.retain(|method| {
        protos
            .iter()
            .any(|proto| proto.contains(&format!("rpc {method}(")))
    });
    assert!(methods.len() >= 10, "{methods:?}");
    let role = Regex::new("(?:Role|Requires the role) `([a-z_]+)`").unwrap();
    for method in methods {
        let row = row(method);
        // The role stands in the comment above the RPC, or above AdminService as a whole.
        let rpc = format!("  rpc {method}(");
        let proto = protos.iter().find(|proto| proto.contains(&rpc)).unwrap();
        let commented = proto.split(&rpc).next().unwrap();
        let commented = commented.rsplit("\n\n").next().unwrap();
        let text = commented.replace("\n  // ", " ");
        let named = role.captures(&text).map(|found| found[1].to_owned());
        let role = match proto.contains("service AdminService") {
            true => named.unwrap_or_else(|| "admin".to_owned()),
            false => named.unwrap_or_else(|| panic!("{method}: {text}")),
        };
        assert!(
            row.contains(&format!("| `{role}`")),
            "{method} takes the role {role}: {row}"
        );
    }
}

#[test]
fn the_scanners_expression_is_that_of_the_vectors() {
    let vectors = read("tests/vectors/keys.json");
    let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
    let expression = vectors["scanner_regex"].as_str().unwrap();
    assert!(
        read("docs/reference/key-format.md").contains(&format!("\n{expression}\n")),
        "{expression}"
    );
}
