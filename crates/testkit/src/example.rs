//! An example of the root package as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// The program of `examples/{name}.rs`. `cargo test` builds the examples, `cargo test --test` does
/// not: then it is built here, unless it is there and not older than its source.
///
/// # Panics
///
/// When it cannot be built; with what cargo said.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this process has a program");
    let profile = test.ancestors().nth(2).expect("tests are in target/*/deps");
    let program = profile.join("examples").join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let source = root.join("examples").join(name).with_extension("rs");
    let source = modified(&source).expect("the example has a source");
    if modified(&program).is_some_and(|built| built >= source) {
        return program;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(root)
        .args(["build", "--locked", "--example", name, "--target-dir"])
        .arg(profile.parent().expect("a profile is in target"))
        .args(profile.ends_with("release").then_some("--release"))
        .stdin(Stdio::null());
    let built = build.output().expect("cargo can be started");
    assert!(
        built.status.success(),
        "the example {name} cannot be built:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}
