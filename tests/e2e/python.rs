//! Other gRPC clients: Python with reflection and without generated code, and the example in
//! Python.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use keyward_testkit::{Authority, Client, Process, connect, connect_tls};

use crate::{BINARY, fresh_directory, serve};

/// The interpreter that scripts/install-test-tools.sh provides for, or the one that
/// KEYWARD_TEST_PYTHON names.
fn python() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("KEYWARD_TEST_PYTHON").filter(|name| !name.is_empty());
    let python = named.map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let imports =
        "import google.protobuf, grpc, grpc_reflection, grpc_tools, standardwebhooks, tronsave";
    let fit = Command::new(&python).args(["-c", imports]).output();
    assert!(
        fit.as_ref().is_ok_and(|output| output.status.success()),
        "{} cannot be used ({fit:?}): run scripts/install-test-tools.sh (`make test` does), or set \
         KEYWARD_TEST_PYTHON to a Python with the packages of tests/python/requirements.txt",
        python.display()
    );
    python
}

/// The interpreter. No proxy stands between a test and its own machine.
pub(crate) fn client() -> Command {
    let mut client = Command::new(python());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_lowercase().ends_with("_proxy") {
            client.env_remove(name);
        }
    }
    client
}

#[test]
fn reflection_alone_is_enough_for_a_client() {
    let (_directory, data) = fresh_directory();
    let mut process = serve(&data);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/reflection.py");
    let mut client = client();
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

#[tokio::test]
async fn the_example_says_whether_a_key_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("keyward-data");
    let authority = Authority::new();
    authority.sign(&["127.0.0.1"]).write(directory.path());
    let ca = directory.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    for tls in [false, true] {
        let mut command = Process::command(BINARY, &data);
        if tls {
            command.args(["--tls-cert", "server.crt", "--tls-key", "server.key"]);
        }
        let mut process = Process::start(command, &data);
        let channel = match tls {
            true => connect_tls(process.grpc, authority.pem()).await.unwrap(),
            false => connect(process.grpc).await,
        };
        let caller = Client::over(channel, Some(&process.token()));
        let account = format!("tls-{tls}");
        let (id, key) = caller.issue(&account, "").await.unwrap();
        let scheme = if tls { "https" } else { "http" };
        // A list, from a file with a line end.
        let endpoint = format!("{scheme}://{} ,http://127.0.0.1:1\n", process.grpc);
        let say = || {
            let mut example = client();
            example
                .arg(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/examples/python/verify.py"
                ))
                .env("KEYWARD_ENDPOINT", &endpoint)
                .env("KEYWARD_TOKEN_FILE", data.join("admin.token"))
                .env("KEYWARD_CA_FILE", &ca);
            said(example, &key)
        };
        assert_eq!(say(), (Some(0), format!("VERDICT_VALID {account}\n")));
        caller.revoke(&id).await.unwrap();
        assert_eq!(say(), (Some(2), "VERDICT_REVOKED \n".to_owned()));
        assert!(process.stop().success());
        // Nobody answers: that is not a verdict.
        let (code, verdict) = say();
        assert_eq!((code, verdict.as_str()), (Some(1), ""));
    }
}

/// Exit code and output of a command that reads this.
fn said(mut command: Command, input: &str) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}
