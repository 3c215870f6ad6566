//! Checks the documentation against the code, and the rules that neither Cargo nor a lint enforces.
#![cfg(test)]

mod alerts;
mod architecture;
mod http;
mod mutants;
mod readme;
mod references;
mod speed;
mod top;

use std::path::{Path, PathBuf};

/// A path of the repository.
fn path(name: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The text of a file of the repository.
fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Each file with `extension` below `directory`, relative to the root; no generated code.
fn files(directory: &str, extension: &str) -> Vec<String> {
    let mut open = vec![PathBuf::from(directory)];
    let mut files = Vec::new();
    while let Some(at) = open.pop() {
        if path(&at).is_dir() && !at.ends_with("gen") {
            for entry in std::fs::read_dir(path(&at)).unwrap() {
                open.push(at.join(entry.unwrap().file_name()));
            }
        } else if at.extension().is_some_and(|found| found == extension) {
            files.push(at.to_str().unwrap().to_owned());
        }
    }
    files
}
