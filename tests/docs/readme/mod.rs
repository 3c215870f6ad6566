//! Checks the README: runs its commands, compares their output, and compares its tables with the
//! code. `UPDATE_README=1 cargo test --test docs` writes the real output.
//!
//! Each block marked `console` holds `$ command` lines and their output. All commands run in order
//! in one shell, with the real binary, in an empty directory. A block marked `python FILE` becomes
//! that file before the next command.

use keyward_core::key::Verdict;
use keyward_ops::Metrics;
use prost::Message;
use prost_types::FileDescriptorSet;
use regex::Regex;

use transcript::Transcript;

mod screens;
mod shell;
mod story;
mod transcript;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BINARY: &str = env!("CARGO_BIN_EXE_keyward");

fn updating() -> bool {
    std::env::var_os("UPDATE_README").is_some_and(|value| value == "1")
}

fn readme() -> String {
    std::fs::read_to_string(README).unwrap()
}

/// Fails when `ours` is not what the README says, or writes it there.
fn settle(says: &str, ours: &str) {
    if says == ours {
        return;
    }
    if updating() {
        std::fs::write(README, ours).unwrap();
        return;
    }
    let differs = |(says, ours): &(&str, &str)| says != ours;
    let first = says.lines().zip(ours.lines()).find(differs);
    panic!(
        "README.md does not say what is: {first:#?}\nrun UPDATE_README=1 cargo test --test docs \
         and look at the difference"
    );
}

#[test]
fn it_says_what_is() {
    // One test, since each part may write the file.
    let says = readme();
    let with_tables = with_tables(&says);
    settle(&says, &with_tables);
    let with_outputs = Transcript::of(&with_tables).run();
    settle(&with_tables, &with_outputs);
    settle(&with_outputs, &story::with_story(&with_outputs));
}

/// Puts the code's tables between the marks `<!-- NAME -->` and `<!-- end -->`.
fn with_tables(text: &str) -> String {
    let tables = [
        ("errors", keyward::grpc::reasons_table()),
        ("settings", keyward::config::markdown()),
        ("metrics", Metrics::table()),
    ];
    let mut text = text.to_owned();
    for (name, table) in tables {
        let mark = format!("<!-- {name} -->\n");
        let begin = text.find(&mark).unwrap_or_else(|| panic!("no {mark}")) + mark.len();
        let end = begin + text[begin..].find("<!-- end -->").unwrap();
        text.replace_range(begin..end, &table);
    }
    text
}

#[test]
fn it_names_every_rpc_with_its_role_and_every_verdict() {
    let text = readme();
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
    let protos = ["api_key_service", "admin_service"].map(|name| {
        let file = format!(
            "{}/proto/keyward/v1/{name}.proto",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::read_to_string(file).unwrap()
    });
    methods.retain(|method| {
        protos
            .iter()
            .any(|proto| proto.contains(&format!("rpc {method}(")))
    });
    assert!(methods.len() >= 10, "{methods:?}");
    let role = Regex::new("Role `([a-z]+)`").unwrap();
    for method in methods {
        let row = row(method);
        // The role stands in the comment above the RPC, or above AdminService as a whole.
        let commented = protos[0].split(&format!("  rpc {method}(")).next().unwrap();
        let commented = commented.rsplit("\n\n").next().unwrap();
        let role = if protos[0].contains(&format!("rpc {method}(")) {
            let text = commented.replace("\n  // ", " ");
            role.captures(&text)
                .unwrap_or_else(|| panic!("{method}: {text}"))[1]
                .to_owned()
        } else {
            "admin".to_owned()
        };
        assert!(
            row.contains(&format!("| `{role}`")),
            "{method} takes the role {role}: {row}"
        );
    }
}

#[test]
fn the_readme_shows_the_scanner_expression_of_the_vectors() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/keys.json");
    let vectors: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let expression = vectors["scanner_regex"].as_str().unwrap();
    assert!(
        readme().contains(&format!("\n{expression}\n")),
        "{expression}"
    );
}
