//! Holds the layout of the source: who may import whom, and some rules that no lint knows.
//!
//! A scan of the text, not a compiler: it sees the paths that start with `crate`, `keyward`,
//! `keyward_proto`, `self` or `super`, also in `use` groups. Unit tests obey like all other code.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use scan::{Named, Scope, Token, is_prefix, tokens, word};

#[path = "architecture/scan.rs"]
mod scan;

/// The modules at the top of `src/` through which the data flows: each may import those before it.
const CHAIN: &[&str] = &[
    "key", "fence", "crypto", "store", "cache", "feed", "caller", "service", "grpc",
];

/// Modules beside the chain, and all that they may import. `keyward_proto` is the crate.
const BESIDE: &[(&str, &[&str])] = &[
    ("telemetry", &[]),
    ("config", &["key", "telemetry"]),
    ("cli", &["config", "key", "keyward_proto", "telemetry"]),
];

/// Where all is put together: these may import everything.
const FREE: &[&str] = &["app", "lib", "main", "system"];

/// Modules that only compute: no async, files, sockets or threads, and no telemetry.
const PURE: &[&str] = &["key", "fence"];

/// Each store by module and type. Only `app`, `store` itself and tests may name one.
const STORES: &[(&str, &str)] = &[("sqlite", "SqliteStore"), ("postgres", "PostgresStore")];

const MAX_LINES: usize = 450;
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

#[test]
fn every_module_imports_only_what_the_table_allows() {
    report(&files(&["src"]).unwrap(), imports);
}

#[test]
fn every_file_keeps_the_house_rules() {
    let roots = ["src", "crates", "tests", "benches", "examples", "build.rs"];
    report(&files(&roots).unwrap(), house_rules);
}

#[test]
fn the_scan_finds_the_source() {
    let files = files(&["src", "crates"]).unwrap();
    for known in ["src/lib.rs", "src/fence/mod.rs", "crates/proto/src/lib.rs"] {
        assert!(files.iter().any(|file| file.0 == known), "{known}");
    }
    assert!(files.iter().all(|file| !file.0.contains("/gen/")));
}

/// Each line: a file, what is written in it, and the finding that must come.
const WRONG: &str = r#"
src/key/text.rs | use crate::fence::Fence; | key may not import fence
src/key/id.rs | use crate::telemetry::count; | key may not import telemetry
src/fence/mod.rs | fn f() { crate::store::open() } | fence may not import store (only: key)
src/store/mod.rs | use crate::{key::{Id, self}, feed}; | store may not import feed
src/store/mod.rs | use {crate::{key, grpc}}; | store may not import grpc
src/store/mod.rs | mod tests { use super::super::grpc; } | store may not import grpc
src/store/mod.rs | mod a {} fn f() { super::feed::f() } | store may not import feed
src/store/sqlite/log.rs | use super::super::super::feed; | store may not import feed
src/store/sqlite/log.rs | use super::super::{Log, super::cache::L1}; | store may not import cache
src/cache/l1.rs | fn f(_: Vec<crate::caller::Role>) {} | cache may not import caller
src/cache/l1.rs | macro_rules! m { () => { $crate::grpc::f() } } | cache may not import grpc
src/telemetry/mod.rs | use crate::key::Id; | telemetry may not import key
src/config.rs | use crate::store::Keys; | config may not import store
src/cli/mod.rs | use keyward::service::Issue; | cli may not import service
src/cli/mod.rs | use crate::fence; | cli may not import fence
src/service/mod.rs | use ::keyward_proto::v1; | service may not import keyward_proto
src/service/mod.rs | use crate::app::App; | service may not import app
src/service/mod.rs | use crate::*; | service may not import *
src/service/mod.rs | use super::*; | service may not import *
src/service/mod.rs | use crate as k; | service may not import *
src/service/mod.rs | use super::{self as k}; | service may not import *
src/newcomer.rs | fn f() {} | src/newcomer.rs:1: add newcomer to the table
src/newcomer/part.rs | fn f() {} | src/newcomer/part.rs:1: add newcomer to the table
src/service/mod.rs | use crate::store::sqlite::X; | names a concrete store
src/service/mod.rs | use crate::store::{Keys, sqlite}; | names a concrete store
src/service/mod.rs | fn f() { store::sqlite::open() } | names a concrete store
src/main.rs | fn f(_: SqliteStore) {} | names a concrete store
src/key/mod.rs | async fn f() {} | key is pure: async
src/fence/wait.rs | use tokio::sync::Notify; | fence is pure: tokio
src/fence/wait.rs | use std::{fmt, fs::File}; | fence is pure: std::fs
src/fence/wait.rs | use std::net::{IpAddr, TcpStream}; | fence is pure: TcpStream
src/fence/wait.rs | fn f() { std::thread::spawn(g) } | fence is pure: std::thread::spawn
src/fence/wait.rs | fn f() { thread::spawn(g) } | fence is pure: thread::spawn
"#;

/// Each line: a file, and what may be written in it.
const RIGHT: &str = r##"
src/fence/mod.rs | use crate::{fence::look, key::{self, Id}}; use std::net::IpAddr;
src/fence/look.rs | /* /* crate::store */ tokio */ fn f() {} // crate::store async
src/fence/look.rs | const A: &str = "crate::store \" tokio"; const B: char = '"'; const C: char = '\'';
src/fence/look.rs | fn f<'a>(x: &'a str) { r#"crate::store " tokio"#; b"tokio"; b'"'; }
src/fence/look.rs | pub(crate) fn f(&self) { self.store.feed() }
src/store/mod.rs | mod a { mod b { use super::super::feed; } } use self::a as feed;
src/store/mod.rs | use tower::{self, crate_a::grpc}; use other::keyward::grpc;
src/store/mod.rs | use tokio::sync::Mutex; async fn f() { std::fs::read(p) }
src/store/sqlite/log.rs | use super::super::{Log, Result}; use super::feed;
src/store/sqlite/mod.rs | pub struct SqliteStore; use crate::store::sqlite::log;
src/service/mod.rs | mod tests { use crate::store::sqlite::SqliteStore; }
src/service/tests.rs | use crate::store::sqlite::SqliteStore;
src/app.rs | use crate::{grpc, store::sqlite::SqliteStore};
src/main.rs | use keyward::{app, cli, run};
src/cli/tests/mod.rs | use super::{DONE, keyward}; fn f() { keyward(DONE) }
src/cli/issue.rs | use crate::{cli::Output, config::Settings}; use keyward_proto::v1;
"##;

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    for line in WRONG.lines().skip(1) {
        let [file, text, expected] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("three columns: {line}");
        };
        let found = imports(file, text);
        assert!(
            found.iter().any(|finding| finding.contains(expected)),
            "{line}\n{found:?}"
        );
    }
    assert_eq!(
        imports(
            "src/fence/mod.rs",
            "\n/* a\n */\nuse crate::{\n    key,\n    feed::Tail,\n};"
        ),
        ["src/fence/mod.rs:6: fence may not import feed (only: key)"]
    );
}

#[test]
fn what_is_allowed_passes() {
    for line in RIGHT.lines().skip(1) {
        let (file, text) = line.split_once(" | ").unwrap();
        assert_eq!(imports(file, text), [""; 0], "{line}");
    }
}

#[test]
fn a_broken_house_rule_is_found() {
    let long = format!("//! Doc.\n{}", "\n".repeat(MAX_LINES));
    let unfinished = format!("//! Doc.\n// {}: later", UNFINISHED[0]);
    let planted = [
        ("src/a.rs", "fn f() {}", "src/a.rs:1: opens without"),
        (
            "crates/a/src/b.rs",
            "/// Doc.\nfn f() {}",
            "crates/a/src/b.rs:1: opens without",
        ),
        ("src/a.rs", &long, "src/a.rs:451: is longer"),
        ("tests/a.rs", &unfinished, "tests/a.rs:2: leaves work"),
        (
            "src/a.rs",
            "//!\n#[allow(x)]\nfn f() {}",
            "src/a.rs:2: uses allow",
        ),
        (
            "src/a.rs",
            "//!\n#![allow(\n  x)]",
            "src/a.rs:2: uses allow",
        ),
        (
            "src/a.rs",
            "//!\n#[cfg_attr(y, allow(x))]",
            "src/a.rs:2: uses allow",
        ),
        (
            "tests/a.rs",
            "#[test]\n#[ignore]",
            "tests/a.rs:2: ignores a test",
        ),
        (
            "tests/a.rs",
            "#[ignore = \"slow\"]",
            "tests/a.rs:1: ignores a test",
        ),
        (
            "tests/a.rs",
            "#[cfg_attr(y, ignore)]",
            "tests/a.rs:1: ignores a test",
        ),
    ];
    for (file, text, expected) in planted {
        let found = house_rules(file, text);
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{file}: {text}\n{found:?}"
        );
    }
    let fine =
        "//! #[allow(x)]\nfn f() { g(&[allow, allow(1)], \"#[ignore]\"); n.allow(ignore[0]) }";
    assert_eq!(house_rules("src/a.rs", fine), [""; 0]);
    assert_eq!(house_rules("tests/a.rs", "fn no_doc_needed() {}"), [""; 0]);
}

/// Fails with every finding of `check` in the files.
fn report(files: &[(String, String)], check: fn(&str, &str) -> Vec<String>) {
    let found: Vec<String> = files
        .iter()
        .flat_map(|(name, text)| check(name, text))
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Name and text of every Rust file under `roots`, without generated code.
fn files(roots: &[&str]) -> io::Result<Vec<(String, String)>> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<_> = roots.iter().map(|root| base.join(root)).collect();
    open.retain(|root| root.exists());
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            if !path.ends_with("gen") {
                for entry in fs::read_dir(&path)? {
                    open.push(entry?.path());
                }
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(base).map_err(io::Error::other)?;
            files.push((
                name.display().to_string().replace('\\', "/"),
                fs::read_to_string(&path)?,
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// What the module may import beside itself; `None` for a module that is not in the table.
fn may_import(module: &str) -> Option<Vec<&'static str>> {
    if FREE.contains(&module) {
        return Some(vec!["everything"]);
    }
    if let Some(row) = BESIDE.iter().find(|row| row.0 == module) {
        return Some(row.1.to_vec());
    }
    let place = CHAIN.iter().position(|name| *name == module)?;
    let mut names = CHAIN[..place].to_vec();
    names.extend((!PURE.contains(&module)).then_some("telemetry"));
    names.extend((module == "grpc").then_some("keyward_proto"));
    Some(names)
}

/// What one file under `src/` names that it may not, as lines `file:line: rule`.
fn imports(file: &str, text: &str) -> Vec<String> {
    let mut scope = Scope::of(file);
    let inner = file.trim_start_matches("src/");
    let top = inner.split(['/', '.']).next().unwrap_or_default();
    let Some(allowed) = may_import(top) else {
        return vec![format!("{file}:1: add {top} to the table in {}", file!())];
    };
    let only = if allowed.is_empty() {
        "nothing"
    } else {
        &allowed.join(", ")
    };
    let code = tokens(text);
    let mut found = BTreeSet::new();
    for at in 0..code.len() {
        scope.step(&code, at);
        let paths = scope.paths(&code, at);
        for (line, path) in &paths {
            let target = match path[0].as_str() {
                "crate" => path.get(1).map_or("*", String::as_str),
                "keyward_proto" => "keyward_proto",
                _ => continue,
            };
            if target != top && !allowed.contains(&target) && !FREE.contains(&top) {
                let rule = format!("{top} may not import {target} (only: {only})");
                found.insert((*line, rule));
            }
        }
        let line = code[at].line;
        if !["app", "store"].contains(&top)
            && !scope.path.iter().any(|name| name == "tests")
            && STORES
                .iter()
                .any(|store| names_store(&code, at, &paths, store))
        {
            found.insert((line, "names a concrete store; only app may".to_owned()));
        }
        if PURE.contains(&top) {
            for what in impure(&code, at, &paths) {
                found.insert((line, format!("{top} is pure: {what}")));
            }
        }
    }
    found
        .into_iter()
        .map(|(line, rule)| format!("{file}:{line}: {rule}"))
        .collect()
}

fn names_store(code: &[Token], at: usize, paths: &[Named], store: &(&str, &str)) -> bool {
    word(code, at) == store.1
        || (word(code, at) == "store"
            && word(code, at + 1) == "::"
            && word(code, at + 2) == store.0)
        || paths
            .iter()
            .any(|(_, path)| is_prefix(&["crate", "store", store.0], path))
}

fn impure(code: &[Token], at: usize, paths: &[Named]) -> Vec<String> {
    let mut found = Vec::new();
    let name = word(code, at);
    if ["async", "tokio"].contains(&name) || name.starts_with("Tcp") {
        found.push(name.to_owned());
    }
    if name == "thread" && word(code, at + 1) == "::" && word(code, at + 2) == "spawn" {
        found.push("thread::spawn".to_owned());
    }
    for banned in [["std", "fs"].as_slice(), &["std", "thread", "spawn"]] {
        if paths.iter().any(|(_, path)| is_prefix(banned, path)) {
            found.push(banned.join("::"));
        }
    }
    found
}

/// Rules for every Rust file but generated ones.
fn house_rules(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |line: usize, rule: &str| found.push(format!("{file}:{line}: {rule}"));
    if (file.starts_with("src/") || file.contains("/src/")) && !text.starts_with("//!") {
        add(1, "opens without //!");
    }
    if text.lines().count() > MAX_LINES {
        add(MAX_LINES + 1, &format!("is longer than {MAX_LINES} lines"));
    }
    for (index, line) in text.lines().enumerate() {
        if UNFINISHED.iter().any(|mark| line.contains(mark)) {
            add(index + 1, "leaves work for later; do it, or open an issue");
        }
    }
    let code = tokens(text);
    let mut attribute = 0;
    for at in 0..code.len() {
        // How many brackets deep inside `#[...]` or `#![...]`.
        match word(&code, at) {
            "[" if attribute > 0 || opens_attribute(&code, at) => attribute += 1,
            "]" if attribute > 0 => attribute -= 1,
            "allow" if attribute > 0 && word(&code, at + 1) == "(" => {
                add(code[at].line, "uses allow; take expect with a reason");
            }
            "ignore" if attribute > 0 => add(code[at].line, "ignores a test"),
            _ => {}
        }
    }
    found
}

fn opens_attribute(code: &[Token], bracket: usize) -> bool {
    let before = |distance: usize| {
        bracket
            .checked_sub(distance)
            .map_or("", |at| word(code, at))
    };
    before(1) == "#" || (before(1) == "!" && before(2) == "#")
}
