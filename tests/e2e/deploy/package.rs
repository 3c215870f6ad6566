//! The archive of a release.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::repository;
use crate::BINARY;

/// Packs the program of this test as `version`.
fn pack(directory: &Path, version: &str) -> Output {
    let from = directory.join("programs");
    fs::create_dir_all(&from).unwrap();
    // Small, unlike a program that is built for tests.
    let script = format!("#!/bin/sh\nexec '{BINARY}' \"$@\"\n");
    for name in ["keyward", "keyward-bot"] {
        fs::write(from.join(name), &script).unwrap();
        fs::set_permissions(from.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    Command::new(repository().join("scripts/package.sh"))
        .arg(&from)
        .args([version, "amd64"])
        .arg(directory.join("to"))
        .output()
        .unwrap()
}

#[test]
fn an_archive_is_reproducible_and_holds_what_an_operator_needs() {
    let directory = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("keyward-{version}-linux-amd64");
    let archive = directory.path().join(format!("to/{name}.tar.gz"));
    let made = pack(directory.path(), version);
    assert!(made.status.success(), "{made:?}");
    let first = fs::read(&archive).unwrap();
    assert!(pack(directory.path(), version).status.success());
    assert!(fs::read(&archive).unwrap() == first, "it is reproducible");

    let unpacked = Command::new("tar")
        .current_dir(directory.path())
        .arg("-xzf")
        .arg(&archive)
        .status()
        .unwrap();
    assert!(unpacked.success());
    let root = directory.path().join(name);
    for file in [
        "share/man/man1/keyward-revoke.1",
        "share/bash-completion/completions/keyward",
        "deploy/keyward.toml",
        "deploy/systemd/keyward.service",
        "LICENSE",
    ] {
        assert!(fs::metadata(root.join(file)).unwrap().len() > 100, "{file}");
    }
    assert!(!root.join("deploy/secrets").exists());
    let runs = Command::new(root.join("bin/keyward"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(runs.stdout).unwrap(),
        format!("keyward {version}\n")
    );

    let refused = pack(directory.path(), "99.0.0");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("is not version 99.0.0"), "{said}");
}
