//! The documentation's references resolve: every path exists, every name after `::` is defined in
//! that file, every link has a target, and every invariant names its function.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

const DOCUMENTS: [&str; 6] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/design/glossary.md",
];
const ROOTS: [&str; 10] = [
    "src",
    "crates",
    "tests",
    "benches",
    "examples",
    "migrations",
    "proto",
    "proof",
    "scripts",
    ".ci",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands in single backquotes outside fenced blocks, with the number of its line.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let quotes = Regex::new("`([^`]+)`").unwrap();
    let mut fenced = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(
                quotes
                    .captures_iter(line)
                    .map(|quote| (index + 1, quote[1].to_owned())),
            );
        }
    }
    found
}

/// Why `named`, a path with or without `::name`, is not there; `None` if it is or is no path.
fn missing(named: &str) -> Option<String> {
    let (path, item) = match named.split_once("::") {
        Some((path, item)) => (path, Some(item)),
        None => (named, None),
    };
    let first = path.split('/').next().unwrap_or_default();
    if !path.contains('/') || path.contains(['*', ' ', '<']) || !ROOTS.contains(&first) {
        return None;
    }
    let at = root().join(path);
    if !at.exists() {
        return Some(format!("there is no {path}"));
    }
    let item = item?;
    let defined = format!(
        r"(?m)\b(fn|struct|enum|trait|const|static|type|TRIGGER|TABLE|VIEW) {}\b",
        regex::escape(item)
    );
    let text = std::fs::read_to_string(at).unwrap_or_default();
    let is_there = Regex::new(&defined).unwrap().is_match(&text);
    (!is_there).then(|| format!("{path} defines no {item}"))
}

#[test]
fn every_path_and_name_exists() {
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        for (line, named) in quoted(&read(document)) {
            wrong.extend(missing(&named).map(|why| format!("{document}:{line}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_invariant_names_the_function_that_upholds_it() {
    let text = read("ARCHITECTURE.md");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip_while(|line| !line.starts_with("| invariant | upheld in |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let names: Vec<_> = rows
        .iter()
        .map(|row| row[0].split(' ').next().unwrap())
        .collect();
    assert_eq!(
        names,
        ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9"]
    );
    for row in rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let places = quoted(row[1]);
        assert!(!places.is_empty(), "{row:?}");
        for (_, place) in places {
            assert!(place.contains("::"), "{place} names no function");
            assert_eq!(missing(&place), None, "{row:?}");
        }
    }
}

#[test]
fn the_code_names_the_invariants_it_upholds() {
    // I5, I7 and I9 come in full with a second instance.
    let invariant = Regex::new(r"\bI[1-8]\b").unwrap();
    let mut named = BTreeSet::new();
    for directory in [
        "crates/core/src/fence",
        "src/replication",
        "src/cache",
        "crates/store/src",
        "crates/store-sqlite/src",
        "migrations/sqlite",
    ] {
        for entry in std::fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = std::fs::read_to_string(path).unwrap();
                named.extend(
                    invariant
                        .find_iter(&text)
                        .map(|found| found.as_str().to_owned()),
                );
            }
        }
    }
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    assert_eq!(named, ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"]);
}

#[test]
fn every_module_stands_in_the_table() {
    let text = read("ARCHITECTURE.md");
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if ["lib.rs", "main.rs"].contains(&name.as_str()) {
            continue;
        }
        assert!(
            text.contains(&format!("\n| `src/{name}` |")),
            "{name} is not in the table"
        );
    }
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)#]+)(?:#[^)]*)?\)").unwrap();
    for document in DOCUMENTS {
        for target in link.captures_iter(&read(document)) {
            let target = &target[1];
            let outside = target.starts_with("https://");
            assert!(
                outside || Path::new(&root()).join(target).exists(),
                "{document}: {target}"
            );
        }
    }
}
