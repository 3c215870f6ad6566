//! Rules that neither Cargo nor a lint enforces: the allowed imports between modules of `src/`, a
//! header in every file, and the length of files.

use std::path::{Path, PathBuf};

use regex::Regex;

/// Only `app` decides which store serves; every other module knows the contract alone.
const STORES: &str = r"\bkeyward_store_(sqlite|postgres)\b";
const MAX_LINES: usize = 450;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Path, relative to the root, and text of each Rust file below `directory`; no generated code.
fn files(directory: &str) -> Vec<(PathBuf, String)> {
    let mut open = vec![root().join(directory)];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() && !path.ends_with("gen") {
            let entries = std::fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
        }
    }
    files
}

/// The modules that `module` may import, from the table in ARCHITECTURE.md: `None` if it is not
/// there. Cargo enforces the same for the crates.
fn allowed_imports(module: &str) -> Option<Vec<String>> {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let row = Regex::new(&format!(
        r"(?m)^\| `src/{module}(?:\.rs)?` \|.*\|([^|]*)\|$"
    ))
    .unwrap();
    let names = Regex::new(r"`(\w+)`").unwrap();
    let row = row.captures(&map)?;
    let named = names.captures_iter(&row[1]);
    Some(named.map(|name| name[1].to_owned()).collect())
}

/// The forbidden imports in `text`, a file of `module`.
fn wrong_imports(module: &str, text: &str) -> Vec<String> {
    let Some(allowed) = allowed_imports(module) else {
        return vec![format!("{module} is not in the table of ARCHITECTURE.md")];
    };
    let import = Regex::new(r"\bcrate::(\w+|\{)").unwrap();
    let imports = import.captures_iter(text).map(|found| found[1].to_owned());
    let mut wrong: Vec<_> = imports
        .filter(|name| name != module && !allowed.contains(name))
        .map(|name| format!("{module} may not import {name}"))
        .collect();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    if module != "app" && Regex::new(STORES).unwrap().is_match(code) {
        wrong.push(format!("{module} names a concrete store"));
    }
    wrong
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (path, text) in files("src") {
        let mut parts = path.iter().skip(1);
        let module = parts.next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        let is_test = path.to_str().unwrap().contains("tests");
        if !["lib", "main"].contains(&module) && !is_test {
            let found = wrong_imports(module, &text);
            wrong.extend(
                found
                    .iter()
                    .map(|what| format!("{}: {what}", path.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_wrong_import_is_found() {
    let wrong = |module, text| wrong_imports(module, text).join("; ");
    assert_eq!(wrong("cache", "use crate::cache::L1;"), "");
    assert_eq!(
        wrong("cache", "use crate::grpc::Api;"),
        "cache may not import grpc"
    );
    assert_eq!(
        wrong("cache", "use crate::{grpc, cache};"),
        "cache may not import {"
    );
    assert_eq!(
        wrong("newcomer", ""),
        "newcomer is not in the table of ARCHITECTURE.md"
    );
    let store = "use keyward_store_sqlite::SqliteStore;";
    assert_eq!(wrong("app", store), "");
    assert_eq!(wrong("service", store), "service names a concrete store");
    assert_eq!(
        wrong("service", &format!("#[cfg(test)] mod tests {{ {store} }}")),
        ""
    );
}

#[test]
fn files_say_what_they_hold_and_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in ["src", "crates", "tests", "benches", "examples"]
        .map(files)
        .concat()
    {
        let name = path.display();
        if name.to_string().contains("src/") && !text.starts_with("//!") {
            wrong.push(format!("{name} does not open with //!"));
        }
        if text.lines().count() > MAX_LINES {
            wrong.push(format!("{name} is longer than {MAX_LINES} lines"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
