//! The documents name only what exists: paths, functions, tests, links and anchors. The top-level
//! documents keep their size limits, every page is in the book's table of contents, and each
//! invariant names the function that upholds it.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use crate::{files, read};

const TOP: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
];
const ROOTS: [&str; 12] = [
    "src",
    "crates",
    "tests",
    "benches",
    "examples",
    "migrations",
    "proto",
    "proof",
    "scripts",
    "deploy",
    "docs",
    ".ci",
];
/// Paths that `deploy/secrets.sh` creates.
const CREATED: [&str; 2] = ["deploy/secrets", "deploy/state"];
/// The largest size in bytes.
const LIMITS: [(&str, usize); 3] = [
    ("README.md", 8_000),
    ("ARCHITECTURE.md", 10_000),
    ("CONTRIBUTING.md", 5_000),
];

fn documents() -> Vec<String> {
    let mut documents = files("docs", "md");
    documents.extend(TOP.map(str::to_owned));
    documents.push("proof/README.md".to_owned());
    documents
}

/// The lines outside fenced blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// The texts in single backquotes outside fenced blocks, with the numbers of their lines.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let quotes = Regex::new("`([^`]+)`").unwrap();
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let quotes = quotes.captures_iter(line);
        found.extend(quotes.map(|quote| (number, quote[1].to_owned())));
    }
    found
}

/// Why `named`, a path with or without `::name`, does not exist; `None` if it does or is no path.
fn missing(named: &str) -> Option<String> {
    let (path, item) = match named.split_once("::") {
        Some((path, item)) => (path, Some(item)),
        None => (named, None),
    };
    let first = path.split('/').next().unwrap_or_default();
    let is_path = path.contains('/') && ROOTS.contains(&first) || path.ends_with(".md");
    let is_created = CREATED
        .iter()
        .any(|created| Path::new(path).starts_with(created));
    if !is_path || is_created || path.contains(['*', ' ', '<']) {
        return None;
    }
    let at = crate::path(path);
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
    for document in documents() {
        for (line, named) in quoted(&read(&document)) {
            wrong.extend(missing(&named).map(|why| format!("{document}:{line}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_invariant_names_the_functions_that_uphold_it_and_they_name_it() {
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
    for (row, name) in rows.iter().zip(names) {
        assert_eq!(row.len(), 3, "{row:?}");
        let places = quoted(row[1]);
        assert!(!places.is_empty(), "{row:?}");
        for (_, place) in places {
            assert!(place.contains("::"), "{place} names no function");
            assert_eq!(missing(&place), None, "{row:?}");
            let (file, _) = place.split_once("::").unwrap();
            let invariant = Regex::new(&format!(r"\b{name}\b")).unwrap();
            assert!(
                invariant.is_match(&read(file)),
                "{file} does not name {name}"
            );
        }
    }
}

#[test]
fn every_module_and_crate_is_in_the_map() {
    let text = read("ARCHITECTURE.md");
    for directory in ["src", "crates"] {
        for entry in std::fs::read_dir(crate::path(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if ["lib.rs", "main.rs"].contains(&name.as_str()) {
                continue;
            }
            assert!(
                text.contains(&format!("\n| `{directory}/{name}` |")),
                "{directory}/{name} is not in a table of ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn every_test_that_proves_a_claim_exists() {
    let mut functions = BTreeSet::new();
    let function = Regex::new(r"\bfn (\w+)").unwrap();
    for directory in ["crates", "proof", "src", "tests"] {
        for file in files(directory, "rs") {
            let text = read(&file);
            let found = function.captures_iter(&text);
            functions.extend(found.map(|found| found[1].to_owned()));
        }
    }
    let name = Regex::new("^[a-z0-9]+(_[a-z0-9]+)+$").unwrap();
    let page = "docs/development/claims.md";
    let named: Vec<_> = quoted(&read(page))
        .into_iter()
        .filter(|(_, named)| name.is_match(named))
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let wrong: Vec<_> = named
        .into_iter()
        .filter(|(_, test)| !functions.contains(test))
        .map(|(line, test)| format!("{page}:{line}: there is no test {test}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The anchors of a document: its headings as GitHub and mdBook write them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text)
        .into_iter()
        .filter_map(|(_, line)| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// Why the link `target` of `document` leads nowhere.
fn dead(document: &str, target: &str) -> Option<String> {
    if target.starts_with("https://") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let mut at = Path::new(document)
        .parent()
        .unwrap_or(Path::new(""))
        .to_owned();
    for part in path.split('/') {
        match part {
            ".." => assert!(at.pop(), "{document}: {target} leaves the repository"),
            part => at.push(part),
        }
    }
    let at = if path.is_empty() {
        document.to_owned()
    } else {
        at.to_str().unwrap().to_owned()
    };
    if !crate::path(&at).exists() {
        return Some(format!("there is no {at}"));
    }
    // The book contains only docs/; a page names other files by their path.
    if document.starts_with("docs/") && !at.starts_with("docs/") {
        return Some(format!("{at} is not in the book"));
    }
    let is_there = anchor.is_empty() || anchors(&read(&at)).iter().any(|found| found == anchor);
    (!is_there).then(|| format!("{at} has no heading #{anchor}"))
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut wrong = Vec::new();
    for document in documents() {
        for (line, text) in prose(&read(&document)) {
            for target in link.captures_iter(text) {
                let why = dead(&document, &target[1]);
                wrong.extend(why.map(|why| format!("{document}:{line}: {why}")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_dead_link_is_found() {
    let page = "docs/guide/install.md";
    assert_eq!(dead(page, "../reference/api.md#verdicts"), None);
    assert_eq!(dead(page, "#build"), None);
    assert!(dead(page, "nowhere.md").is_some());
    assert!(dead(page, "../../README.md").is_some());
    assert!(dead(page, "../reference/api.md#no-such-heading").is_some());
    assert!(missing("src/grpc/no_such_file.rs").is_some());
    assert!(missing("src/grpc/mod.rs::no_such_function").is_some());
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let summary = read("docs/SUMMARY.md");
    for page in files("docs", "md") {
        let page = page.strip_prefix("docs/").unwrap();
        let expected = usize::from(page != "SUMMARY.md");
        assert_eq!(
            summary.matches(&format!("]({page})")).count(),
            expected,
            "{page}"
        );
    }
}

#[test]
fn documents_keep_their_size_limits() {
    for (document, limit) in LIMITS {
        let size = read(document).len();
        assert!(
            size <= limit,
            "{document} has {size} bytes, {limit} are allowed"
        );
    }
}
