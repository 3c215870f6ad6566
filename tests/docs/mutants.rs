//! The table of mutants names each patch, and the tests that the patch names.

use std::collections::BTreeMap;

use regex::Regex;

use crate::{files, read};

const PAGE: &str = "docs/development/mutants.md";

/// The tests that a patch names: the name of a test binary, or `unit`.
fn found_by(patch: &str) -> Vec<String> {
    let mut levels = Vec::new();
    let lines = patch.lines().take_while(|line| !line.starts_with("diff "));
    for test in lines.filter_map(|line| line.strip_prefix("# test: ")) {
        let mut words = test.split(' ').skip_while(|word| *word != "--test");
        let suite = words.nth(1).unwrap_or("unit");
        if !levels.iter().any(|level| level == suite) {
            levels.push(suite.to_owned());
        }
    }
    levels
}

#[test]
fn the_table_of_mutants_is_that_of_the_patches() {
    let row = Regex::new(r"(?m)^\| [^|]+ \| `([a-z0-9-]+)` \| ([^|]+) \|$").unwrap();
    let seeds = Regex::new(r" \([^)]*\)").unwrap();
    let text = read(PAGE);
    let rows = row.captures_iter(&text).map(|row| {
        let levels = seeds.replace_all(&row[2], "").into_owned();
        (row[1].to_owned(), levels)
    });
    let table: Vec<(String, String)> = rows.collect();
    let patches = files("proof/mutants", "patch").into_iter().map(|file| {
        let name = file
            .trim_start_matches("proof/mutants/")
            .trim_end_matches(".patch");
        (name.to_owned(), found_by(&read(&file)).join(", "))
    });
    let patches: BTreeMap<String, String> = patches.collect();
    let named: BTreeMap<String, String> = table.iter().cloned().collect();
    assert_eq!(
        named, patches,
        "{PAGE} names other patches or tests than proof/mutants"
    );
    assert_eq!(named.len(), table.len(), "{PAGE} names a patch twice");
}
