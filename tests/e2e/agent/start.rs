//! What an agent refuses at its start, with a text that says what to do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use keyward_proto::v1::Role;
use keyward_testkit::{AgentProcess, Process, write_secret};

use super::Site;

/// The exit code and the output of an agent that does not start.
fn refused(mut command: Command) -> (i32, String) {
    let (status, output) = Process::run_to_end(&mut command);
    (status.code().expect("it ended by itself"), output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_start_is_refused_with_what_to_do() {
    let site = Site::start().await;
    let url = site.url();
    let local = site.path("local.token");
    let flags: [(&[&str], i32, &[&str]); 10] = [
        (
            &["--listen", "127.0.0.1:0"],
            64,
            &["local_token_file", "unix:PATH"],
        ),
        (&["--listen", "0.0.0.0:0"], 64, &["not a loopback address"]),
        (&["--listen", "[::]:0"], 64, &["not a loopback address"]),
        (
            &["--listen", "unix:a.sock", "--http-listen", "192.0.2.1:80"],
            64,
            &["http_listen", "not a loopback address"],
        ),
        (
            &["--listen", "unix:a.sock", "--http-listen", "127.0.0.1:0"],
            64,
            &["http_listen", "local_token_file"],
        ),
        (
            &["--listen", "unix:a.sock", "--socket-mode", "0666"],
            64,
            &["socket_mode", "every user"],
        ),
        (
            &["--listen", "unix:a.sock", "--socket-mode", "0777"],
            64,
            &["0600"],
        ),
        (
            &["--listen", "unix:a.sock", "--fallback", "maybe"],
            64,
            &["fallback"],
        ),
        (
            &["--listen", "unix:none/a.sock"],
            1,
            &["none/a.sock", "`listen`"],
        ),
        (
            &["--listen", "unix:own.token"],
            1,
            &["own.token", "not a socket"],
        ),
    ];
    for (flags, code, says) in flags {
        let mut command = site.command(&url);
        command.args(flags);
        let (found, output) = refused(command);
        assert_eq!(found, code, "{flags:?}: {output}");
        for text in says {
            assert!(output.contains(text), "{flags:?}: {output}");
        }
    }
    let with_local = |text: Option<&str>| {
        let file = site.path("other.token");
        match text {
            Some(text) => write_secret(&file, text),
            None => drop(std::fs::remove_file(&file)),
        }
        let mut command = site.command(&url);
        AgentProcess::with_token(&mut command, &file);
        refused(command)
    };
    for text in [
        None,
        Some(""),
        Some("short"),
        Some("two words 0123456789"),
        Some("é0123456789abcdefg"),
    ] {
        let (code, output) = with_local(text);
        assert_eq!(code, 1, "{output}");
        assert!(output.contains("local_token_file"), "{output}");
        assert!(
            text.is_none_or(|text| text.is_empty() || !output.contains(text)),
            "{output}"
        );
    }
    let (code, output) = with_local(Some(&site.own));
    assert!(
        code == 1 && output.contains("holds a token of Keyward"),
        "{output}"
    );
    assert!(!output.contains(&site.own));

    let mut command = site.command(&url);
    AgentProcess::with_token(&mut command, &local);
    std::fs::set_permissions(&local, Permissions::from_mode(0o644)).unwrap();
    let (code, output) = refused(command);
    assert!(code == 1 && output.contains("chmod o-rwx"), "{output}");
    std::fs::set_permissions(&local, Permissions::from_mode(0o640)).unwrap();

    let with_own = |endpoint: &str, token_file: &Path| {
        let mut command = AgentProcess::command(crate::BINARY, endpoint, token_file);
        AgentProcess::with_token(&mut command, &local);
        refused(command)
    };
    let (code, output) = with_own(&url, &site.path("nowhere"));
    assert!(code == 1 && output.contains("nowhere"), "{output}");
    let (code, output) = with_own("http://192.0.2.1:1", &site.path("own.token"));
    assert!(code == 1 && output.contains("https://"), "{output}");
    for role in [Role::Verifier, Role::NearCache] {
        let token = site.admin.token("half", &[role]).await.unwrap();
        let file = site.path("half.token");
        std::fs::write(&file, token).unwrap();
        let (code, output) = with_own(&url, &file);
        let missing = match role {
            Role::Verifier => "lacks the role near_cache",
            _ => "lacks the role verifier",
        };
        assert!(code == 1 && output.contains(missing), "{role:?}: {output}");
        assert!(
            output.contains("--role near_cache --role verifier"),
            "{output}"
        );
    }
    std::fs::write(site.path("half.token"), "kwt_wrong").unwrap();
    let (code, output) = with_own(&url, &site.path("half.token"));
    assert!(code == 1 && output.contains("TOKEN_INVALID"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_a_killed_agent_is_replaced_and_one_in_use_is_not() {
    let site = Site::start().await;
    let start = || {
        let mut command = site.command(&site.url());
        AgentProcess::with_sockets(&mut command, site.directory.path());
        command
    };
    let mut first = AgentProcess::start(start());
    let (code, output) = refused(start());
    assert!(code == 1 && output.contains("agent.sock"), "{output}");
    first.kill();
    let mut second = AgentProcess::start(start());
    assert!(second.stop().success());
}
