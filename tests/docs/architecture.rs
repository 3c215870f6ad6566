//! Rules that neither Cargo nor a lint enforces: the allowed imports between modules of `src/`, a
//! header in every file, and the length of files.

use regex::Regex;

use crate::{files, read};

/// Only `app` decides which store serves; every other module knows the contract alone.
const STORES: &str = r"\bkeyward_store_(sqlite|postgres)\b";
const MAX_LINES: usize = 450;

/// The modules that `module` may import, from the table in ARCHITECTURE.md: `None` if it is not
/// there. Cargo enforces the same for the crates.
fn allowed_imports(module: &str) -> Option<Vec<String>> {
    let map = read("ARCHITECTURE.md");
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
    for file in files("src", "rs") {
        let module = file.split('/').nth(1).unwrap().trim_end_matches(".rs");
        if !["lib", "main"].contains(&module) && !file.contains("tests") {
            let found = wrong_imports(module, &read(&file));
            wrong.extend(found.iter().map(|what| format!("{file}: {what}")));
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
    let directories = ["src", "crates", "proof", "tests", "benches", "examples"];
    for name in directories.map(|directory| files(directory, "rs")).concat() {
        let text = read(&name);
        if name.contains("src/") && !text.starts_with("//!") {
            wrong.push(format!("{name} does not open with //!"));
        }
        if text.lines().count() > MAX_LINES {
            wrong.push(format!("{name} is longer than {MAX_LINES} lines"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
