//! The commands of the runbooks are run as they stand, and do what the pages say.

mod secrets;
mod store;
mod webhooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyward_testkit::without_settings;

use crate::BINARY;

const RUNBOOKS: &str = include_str!("../../../docs/guide/runbooks.md");
const BACKUP: &str = include_str!("../../../docs/guide/backup.md");
const UPGRADE: &str = include_str!("../../../docs/guide/upgrade.md");

/// The blocks of shell commands in a section of a page, in order.
fn blocks(page: &str, section: &str) -> Vec<String> {
    let heading = format!("\n{section}\n");
    let page = format!("\n{page}");
    let (_, text) = page
        .split_once(&heading)
        .unwrap_or_else(|| panic!("no section {section}"));
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (line.trim_start(), &mut open) {
            ("```sh", None) => open = Some(String::new()),
            ("```", Some(_)) => blocks.extend(open.take()),
            (_, Some(block)) => {
                block.push_str(line);
                block.push('\n');
            }
            (line, None) if line.starts_with("## ") => break,
            _ => {}
        }
    }
    blocks
}

/// An operator at a shell.
struct Operator {
    directory: PathBuf,
    variables: BTreeMap<&'static str, String>,
}

impl Operator {
    fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            variables: BTreeMap::new(),
        }
    }

    fn set(&mut self, name: &'static str, value: impl ToString) {
        self.variables.insert(name, value.to_string());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Runs a block. Returns its exit code and what it printed.
    fn runs(&self, block: &str) -> (i32, String) {
        let binaries = Path::new(BINARY).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut shell: Command = without_settings("bash");
        let output = shell
            .args(["--norc", "--noprofile", "-euo", "pipefail", "-c", block])
            .current_dir(&self.directory)
            .env("PATH", format!("{}:{path}", binaries.display()))
            .envs(&self.variables)
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(printed).unwrap(),
        )
    }

    /// Runs a block that succeeds. Returns what it printed.
    #[track_caller]
    fn does(&self, block: &str) -> String {
        let (code, printed) = self.runs(block);
        assert_eq!(code, 0, "{block}\n{printed}");
        printed
    }
}

#[test]
fn every_block_of_the_runbooks_is_run() {
    for (page, sections) in [
        (
            RUNBOOKS,
            &[
                ("## A key leaked", 3),
                ("## A token leaked", 3),
                ("## The last admin token is lost", 2),
                ("## The keyring is lost", 1),
                ("## Redis is lost", 1),
                ("## A webhook fails", 2),
            ][..],
        ),
        (UPGRADE, &[("# Upgrade", 2)]),
        (BACKUP, &[("## Restore", 2)]),
    ] {
        for (section, count) in sections {
            assert_eq!(blocks(page, section).len(), *count, "{section}");
        }
        let run: usize = sections.iter().map(|(_, count)| count).sum();
        assert_eq!(page.matches("```sh").count(), run, "a block is not run");
    }
}
