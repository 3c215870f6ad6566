//! The real binary from end to end: the output of its verbs, its exit codes and its settings. No
//! secret may reach stderr.

use std::io::Read;
use std::process::Stdio;

use harness::{Service, command, run, text};
use keyward_testkit::Process;
use names::same_names;
use serde_json::Value;

mod audit;
mod harness;
mod import;
mod manual;
mod names;
mod output;
mod tls;
mod top;
mod webhooks;

const ID: &str = "01970000-0000-7000-8000-000000000000";

#[test]
fn key_is_read_from_stdin_without_its_line_end() {
    let service = Service::start();
    let (id, key) = service.issue("42");
    for (input, verdict) in [
        (key.clone(), "VALID"),
        (format!("{key}\n"), "VALID"),
        (format!("{key}\r\n"), "VALID"),
        (format!("{key}\n\n"), "MALFORMED"),
        (format!(" {key}"), "MALFORMED"),
        (format!("Bearer {key}"), "MALFORMED"),
    ] {
        let outcome = service.json_of(&["verify", "-"], &input);
        let json: Value = serde_json::from_str(&outcome.out).unwrap();
        same_names(&json, "VerifyResponse");
        assert_eq!(json["verdict"], verdict);
        assert_eq!(outcome.code, if verdict == "VALID" { 0 } else { 2 });
    }
    let err = service.call(&["verify", "-"], "").refused(64);
    assert!(err.contains("stdin holds no key"), "{err}");
    let json = service.json("RevokeResponse", &["revoke", "--key", "-"], &key);
    assert_eq!(json["revoked"][0]["key_id"], id.as_str());
    assert_eq!(service.call(&["verify", &key], "").code, 2);
}

#[test]
fn secret_in_the_wrong_place_is_not_repeated() {
    let service = Service::start();
    let (id, key) = service.issue("42");
    for arguments in [
        &["revoke", &id, &key][..],
        // The service refuses these.
        &["verify", "-", "--client-ip", &key],
        &["list", "--account", &format!("{key}\n")],
    ] {
        // `run` fails if stderr holds the key.
        service.call(arguments, &key).refused(64);
    }
    assert_eq!(service.call(&["verify", "-"], &key).code, 0);
}

#[test]
fn failed_call_is_explained_with_exit_code_1() {
    let service = Service::start();
    let err = service.call(&["get", ID], "").refused(1);
    assert!(
        err.starts_with("error: KEY_NOT_FOUND: ") && err.contains("keyward list --account"),
        "{err}"
    );
    let err = service
        .call(&["issue", "--account", "x\u{7f}"], "")
        .refused(64);
    assert!(
        err.starts_with("error: --account: ") && err.lines().count() == 1,
        "{err}"
    );
    let update = ["update", ID, "--cidr", "x"];
    let err = service.call(&update, "").refused(64);
    assert!(err.starts_with("error: --cidr: "), "{err}");

    let err = service
        .call(&["get", ID, "--token-file", "nowhere"], "")
        .refused(1);
    assert!(
        err.contains("nowhere") && err.contains("--token-file"),
        "{err}"
    );
    let token_file = service.directory.path().join("token");
    for (token, expected) in [
        ("kwt_invented\n", "TOKEN_INVALID"),
        ("", "does not hold one token"),
    ] {
        std::fs::write(&token_file, token).unwrap();
        let mut command = service.command(&["get", ID]);
        command.env("KEYWARD_TOKEN_FILE", &token_file);
        let err = run(command, "").refused(1);
        assert!(err.contains(expected), "{err}");
    }
    let created = service.json(
        "CreateTokenResponse",
        &["token", "create", "b", "--role", "verifier"],
        "",
    );
    std::fs::write(&token_file, text(&created["token"])).unwrap();
    let err = service
        .call(&["get", ID, "--token-file", "token"], "")
        .refused(1);
    assert!(
        err.contains("ROLE_REQUIRED")
            && err.contains("role reader")
            && err.contains("--token-file"),
        "{err}"
    );
    assert_eq!(err.matches("use a token").count(), 1, "{err}");

    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{free}");
    let err = service
        .call(&["get", ID, "--endpoint", &endpoint], "")
        .refused(1);
    assert!(
        err.contains(&format!("cannot connect to {endpoint}")),
        "{err}"
    );
    assert!(err.contains("check that the service is running"), "{err}");
}

#[test]
fn service_is_found_through_its_settings() {
    let service = Service::start();
    let directory = service.directory.path();
    let listen = service.process.grpc.to_string();
    run(
        command(directory, &["token", "list", "--listen", &listen]),
        "",
    )
    .done();
    let mut by_variable = command(directory, &["token", "list"]);
    by_variable.env("KEYWARD_LISTEN", &listen);
    run(by_variable, "").done();
    let data = directory.join("keyward-data");
    let file = format!("listen = '{listen}'\ndata_dir = '{}'\n", data.display());
    std::fs::write(directory.join("keyward.toml"), &file).unwrap();
    run(command(directory, &["token", "list"]), "").done();
    let err = run(
        command(directory, &["token", "list", "--listen", "127.0.0.1:0"]),
        "",
    )
    .refused(64);
    assert!(err.contains("--endpoint"), "{err}");
}

#[test]
fn wrong_setting_is_refused_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keyward.toml");
    std::fs::write(file, "max_stalenes = '3s'\n").unwrap();
    let err = run(command(directory.path(), &["serve"]), "").refused(64);
    assert!(err.contains("did you mean max_staleness?"), "{err}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn insecure_opens_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("keyward-data");
    let serve = [
        "--listen",
        "0.0.0.0:0",
        "--rest-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--insecure",
    ];
    let mut process = Process::start(command(directory.path(), &serve), &data);
    assert!(process.grpc.ip().is_unspecified());
    assert!(process.stop().success());
    assert!(process.output().contains("drain_delay=0s"));
}

#[test]
fn closed_pipe_is_not_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["config"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(directory.path(), arguments);
        let mut child = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(1), ""));
    }
}

/// A command whose output is lost must say what it has made, or nobody learns of a new secret.
#[test]
fn lost_output_of_a_change_is_reported() {
    let service = Service::start();
    let lose = |arguments: &[&str], is_full: bool| {
        let mut command = service.command(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        if is_full {
            let full = std::fs::File::options().write(true).open("/dev/full");
            command.stdout(full.unwrap());
        } else {
            command.stdout(writer);
        }
        let output = command.stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let keys = |account: &str| {
        let keys = service.json("ListResponse", &["list", "--account", account], "");
        text(&keys["keys"][0]["key_id"])
    };
    for (is_full, account) in [(true, "50"), (false, "51")] {
        let err = lose(&["issue", "--account", account], is_full);
        let made = keys(account);
        assert!(
            err.contains(&format!("keyward revoke {made} --replace")),
            "{err}"
        );
        let err = lose(&["revoke", &made, "--replace"], is_full);
        let replacement = keys(account);
        assert!(
            err.contains(&format!("keyward revoke {replacement} --replace")),
            "{err}"
        );
        let err = lose(
            &["update", &replacement, "--disable", "--output", "json"],
            is_full,
        );
        assert!(err.contains("the change is in force"), "{err}");
        let err = lose(&["revoke", &replacement], is_full);
        assert!(err.contains("the revocation is in force"), "{err}");
        let err = lose(&["issue", "--account", account, "--recoverable"], is_full);
        assert!(err.contains("role revealer"), "{err}");

        let err = lose(&["token", "create", "b", "--role", "reader"], is_full);
        let tokens = service.json("ListTokensResponse", &["token", "list"], "");
        let newest = tokens["caller_tokens"].as_array().unwrap().last().unwrap();
        let token = text(&newest["token_id"]);
        assert!(
            err.contains(&format!("keyward token revoke {token}")),
            "{err}"
        );
        let err = lose(&["token", "revoke", &token], is_full);
        assert!(err.contains("the revocation is in force"), "{err}");
        let err = lose(
            &[
                "token", "create", "b", "--role", "reader", "--into", account,
            ],
            is_full,
        );
        assert!(err.contains(&format!("is in {account}")), "{err}");
    }
    // A command that changes nothing has nothing to say when its reader has gone.
    assert_eq!(lose(&["list", "--account", "42"], false), "");
    assert!(lose(&["list", "--account", "42"], true).contains("cannot write the output"));
}
