//! Any gRPC client will do: Python with reflection and no generated code.
#![cfg(test)]

use std::path::PathBuf;
use std::process::Command;

use keyward_testkit::Process;

/// The interpreter that scripts/install-test-tools.sh provides for, or the one that
/// KEYWARD_TEST_PYTHON names.
fn python() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("KEYWARD_TEST_PYTHON").filter(|name| !name.is_empty());
    let python = named.map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let imports = "import google.protobuf, grpc, grpc_reflection";
    let fit = Command::new(&python).args(["-c", imports]).output();
    assert!(
        fit.as_ref().is_ok_and(|output| output.status.success()),
        "{} cannot be used ({fit:?}): run scripts/install-test-tools.sh (`make test` does), or set \
         KEYWARD_TEST_PYTHON to a Python with the packages of tests/python/requirements.txt",
        python.display()
    );
    python
}

#[test]
fn reflection_alone_is_enough_for_a_client() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("keyward-data");
    let mut process = Process::start(
        Process::command(env!("CARGO_BIN_EXE_keyward"), &data),
        &data,
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/reflection.py");
    let mut client = Command::new(python());
    // No proxy stands between a test and its own machine.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_lowercase().ends_with("_proxy") {
            client.env_remove(name);
        }
    }
    let token_file = data.join("admin.token");
    let output = client
        .arg(script)
        .arg(process.grpc.to_string())
        .arg(token_file)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{}", process.output());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all is well\n");
    assert!(process.stop().success());
}
