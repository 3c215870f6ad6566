//! Tests of the whole command line, without a service.

mod local;
mod service;

use keyward_ops::findings::Findings;

use super::*;

/// Executes nothing, and returns a description of the command.
fn recorded(work: LocalWork) -> Result<LocalResult, String> {
    let (command, settings) = match work {
        LocalWork::Command(command, settings) => (command, *settings),
        LocalWork::Agent(settings) => return Err(format!("agent on {}", settings.listen)),
    };
    let store = settings.store;
    let text = match command {
        LocalCommand::Serve => Err(format!("listens on {}", settings.listen)),
        LocalCommand::Migrate { service_role } => Ok(format!("migrate {store:?} {service_role:?}")),
        LocalCommand::Init {
            service_role,
            token_file,
            if_new,
        } => Ok(format!(
            "init {store:?} {service_role:?} {token_file:?}{}",
            if if_new { " if new" } else { "" }
        )),
        LocalCommand::Epoch(EpochCommand::Advance { reason }) => {
            Err(format!("advance {store:?} {reason}"))
        }
        LocalCommand::Clock(ClockCommand::Lower { reason, expired }) => {
            Ok(format!("lower {store:?} {reason} {expired:?}"))
        }
        LocalCommand::Keyring(KeyringCommand::Add { kind, .. }) => {
            Ok(format!("{kind:?} in {}", settings.keyring.display()))
        }
        LocalCommand::Doctor => {
            let mut found = Findings::default();
            found.ok("store", format!("{store:?}"));
            found.warn("tls", "it ends");
            if settings.workers == 7 {
                found.error("keyring", "it is gone");
            }
            return Ok(LocalResult::Findings(found.0));
        }
    };
    text.map(LocalResult::Text)
}

/// Runs a command. Returns the exit code, stdout and stderr.
fn keyward(arguments: &[&str], input: &str) -> (u8, String, String) {
    keyward_in(arguments, input, &[])
}

fn keyward_in(
    arguments: &[&str],
    input: &str,
    environment: &[(&str, &str)],
) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = input.as_bytes();
    let mut console = Console {
        input: &mut input,
        out: &mut out,
        err: &mut err,
        is_terminal: false,
        is_screen: false,
    };
    let arguments = std::iter::once("keyward")
        .chain(arguments.iter().copied())
        .map(OsString::from);
    let environment = environment
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let code = run_on(&mut console, arguments, environment, &recorded);
    (
        code,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn parse(arguments: &[&str]) -> Call {
    let arguments = std::iter::once("keyward").chain(arguments.iter().copied());
    Call::from_arg_matches(&args::command().try_get_matches_from(arguments).unwrap()).unwrap()
}

/// An address that was free a moment ago.
fn free_address() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

const ID: &str = "01970000-0000-7000-8000-000000000000";

#[test]
fn clap_accepts_the_definition() {
    args::command().debug_assert();
}

#[test]
fn serve_is_the_default_verb() {
    for arguments in [
        vec!["--listen", "127.0.0.1:7"],
        vec!["serve", "--listen", "127.0.0.1:7"],
        vec![
            "--listen",
            "127.0.0.1:8",
            "serve",
            "--listen",
            "127.0.0.1:7",
        ],
    ] {
        let (code, _, err) = keyward(&arguments, "");
        assert_eq!(
            (code, err.as_str()),
            (FAILED, "error: listens on 127.0.0.1:7\n")
        );
    }
}

#[test]
fn usage_errors_are_64() {
    for arguments in [
        vec!["--listn", "x"],
        vec!["nonsense"],
        vec!["issue"],
        vec![
            "issue",
            "--account",
            "1",
            "--ttl",
            "1d",
            "--expire-time",
            "2030-01-01T00:00:00Z",
        ],
        vec!["issue", "--account", "1", "--metadata", "x"],
        vec!["get"],
        vec!["get", ID, "--key", "-"],
        vec!["revoke", ID, "--account", "1"],
        vec!["revoke", "--account", "1", "--replace"],
        vec!["revoke", "--key", "-", "--grace", "1m"],
        vec!["update", ID],
        vec!["update", ID, "--scope", "a", "--clear-scopes"],
        vec!["update", ID, "--disable", "--enable"],
        vec!["token"],
        vec!["token", "create", "bot"],
        vec!["token", "create", "bot", "--role", "root"],
        vec!["token", "revoke", "x"],
        vec!["get", ID, "--endpoint", "ftp://x"],
        vec!["get", ID, "--workers", "1"],
        vec!["--workers", "many"],
    ] {
        let (code, out, err) = keyward(&arguments, "");
        assert_eq!((code, out.as_str()), (USAGE, ""), "{arguments:?}: {err}");
        let is_explained = err.starts_with("error: ") || err.contains("Usage: keyward token");
        assert!(is_explained, "{arguments:?}: {err}");
    }
    for flag in [
        &["issue", "--account", "1", "--ttl"][..],
        &["update", ID, "--ttl"],
        &["revoke", ID, "--grace"],
        &["get", ID, "--timeout"],
    ] {
        for wrong in ["banana", "99999999999999999999s"] {
            let (code, _, err) = keyward(&[flag, &[wrong]].concat(), "");
            let is_explained = err.contains("must be a duration such as 30m, 12h or 30d");
            assert!(code == USAGE && is_explained, "{flag:?} {wrong}: {err}");
        }
    }
}

#[test]
fn help_names_settings_and_exit_codes() {
    for arguments in [["--help"].as_slice(), &["serve", "--help"]] {
        let (code, out, _) = keyward(arguments, "");
        assert_eq!(code, DONE);
        for setting in config::TABLE {
            assert!(
                out.contains(&setting.flag()) && out.contains(&setting.variable()),
                "{out}"
            );
        }
    }
    let (_, help, _) = keyward(&["--help"], "");
    for code in [
        "  0   success",
        "  1   failure",
        "  2   the verdict on a key",
        "  64  the command line or a setting is wrong",
    ] {
        assert!(help.contains(code), "{help}");
    }
    for verb in args::command().get_subcommands() {
        let name = verb.get_name();
        let is_listed = help
            .lines()
            .any(|line| line.starts_with(&format!("  {name} ")));
        assert!(is_listed || verb.is_hide_set(), "{name}: {help}");
        let (code, out, _) = keyward(&[name, "--help"], "");
        assert!(code == DONE && out.contains("Usage: keyward"), "{out}");
    }
    // clap wraps the lines, so only whole sentences end with a line break.
    let (_, advice) = help.split_once("Set a setting").unwrap();
    assert!(
        advice.trim_end().lines().all(|line| line.len() > 20),
        "{advice}"
    );
    let version = format!("keyward {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(keyward(&["--version"], ""), (DONE, version, String::new()));
    assert!(
        keyward(&["token", "list", "--help"], "")
            .1
            .contains("--token-file")
    );
    assert!(!keyward(&["issue", "--help"], "").1.contains("--workers"));
}

#[test]
fn config_shows_the_source_of_each_setting() {
    let environment = [
        ("KEYWARD_WORKERS", "2"),
        ("KEYWARD_OTLP_ENDPOINT", "http://u:hunter2@x:1"),
    ];
    let (code, out, _) = keyward_in(
        &["config", "--insecure", "--output", "json"],
        "",
        &environment,
    );
    assert_eq!(code, DONE);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["workers"]["source"], "variable KEYWARD_WORKERS");
    assert_eq!(json["insecure"]["source"], "flag --insecure");
    assert_eq!(json["insecure"]["value"], "true");
    for setting in config::TABLE {
        let entry = &json[setting.name];
        assert!(entry["value"].is_string() && entry["source"].is_string());
    }
    assert_eq!(json["otlp_endpoint"]["value"], "http://u:***@x:1");
    let (_, out, _) = keyward_in(&["config"], "", &environment);
    assert!(out.starts_with("NAME") && !out.contains("hunter2"), "{out}");
    assert!(out.lines().any(|l| l.split_whitespace().eq([
        "workers",
        "2",
        "variable",
        "KEYWARD_WORKERS"
    ])));
}

#[test]
fn key_in_the_wrong_place_is_not_repeated() {
    for arguments in [["get", "kw_canary"], ["revoke", "kw_canary"]] {
        let (code, _, err) = keyward(&arguments, "");
        assert_eq!(code, USAGE);
        let hint = format!("keyward {} --key -", arguments[0]);
        assert!(err.contains(&hint) && !err.contains("canary"), "{err}");
    }
    const KEY: &str = "kw_canary_is_as_long_as_a_key";
    for arguments in [
        &["revoke", ID, "kw_canary"][..],
        &["verify", "-", "--", "kw_canary"],
        &["issue", "--account", "42", KEY],
        &["list", "--account", "42", "--page-size", KEY],
        &["update", ID, "--ttl", KEY],
        &["update", KEY, "--disable"],
        &["revoke", ID, "--grace", KEY],
        &["verify", &format!("--{KEY}")],
        &["verify", "-", "--timeout", KEY],
        &["get", ID, "--endpoint", KEY],
        &["token", "create", "bot", "--role", KEY],
        &["token", "revoke", KEY],
        &["token", KEY],
        &[KEY],
        &["--", KEY],
    ] {
        let (code, out, err) = keyward(arguments, "");
        assert_eq!((code, out.as_str()), (USAGE, ""));
        assert!(!err.contains("canary"), "{err}");
    }
    for (wrong, right) in [("isue", "'issue'"), ("--max-stalenes", "'--max-staleness'")] {
        let (_, _, err) = keyward(&[wrong], "");
        assert!(err.contains(wrong) && err.contains(right), "{err}");
    }
}

#[test]
fn call_without_a_token_or_a_right_endpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let get = ["get", ID, "--data-dir", dir.path().to_str().unwrap()];
    let (code, _, err) = keyward(&get, "");
    assert_eq!(code, FAILED);
    assert!(
        err.contains("admin.token") && err.contains("--token-file"),
        "{err}"
    );

    std::fs::write(dir.path().join("admin.token"), "kwt_canary\n").unwrap();
    for (endpoint, code, expected) in [
        ("ftp://x", USAGE, "must begin with https:// or http://"),
        ("127.0.0.1:1", USAGE, "must begin with https:// or http://"),
        ("http://127.0.0.1:99999", USAGE, "invalid port"),
        ("http://127.0.0.1:0", USAGE, "invalid port"),
        ("http://127.0.0.1:", USAGE, "invalid port"),
        ("https://[::1]:70000", USAGE, "invalid port"),
        ("http://127.0.0.1:1/path", USAGE, "must not have a path"),
        (
            "http://user:pass@127.0.0.1:1",
            USAGE,
            "must not contain a user",
        ),
        ("https://127.0.0.1:1", FAILED, "cannot connect to https://"),
    ] {
        let found = keyward_in(&get, "", &[("KEYWARD_ENDPOINT", endpoint)]);
        assert!(
            found.0 == code && found.2.contains(expected),
            "{endpoint}: {found:?}"
        );
        assert!(!found.2.contains("pass@"), "{found:?}");
    }
}

/// Files and templates leave line ends, and an unset variable often arrives empty.
#[test]
fn variables_are_trimmed_and_empty_ones_are_unset() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("admin.token"), "kwt_canary\n").unwrap();
    let token = dir.path().join("admin.token");
    let token = format!("{} \n", token.display());
    let free = free_address().to_string();
    let get = ["get", ID, "--listen", &free];
    for (token, more) in [
        (token.as_str(), &[][..]),
        ("", &["--data-dir", dir.path().to_str().unwrap()]),
    ] {
        for empty in ["", " \n"] {
            let environment = [
                ("KEYWARD_TOKEN_FILE", token),
                ("KEYWARD_ENDPOINT", empty),
                ("KEYWARD_CA_FILE", empty),
            ];
            let (code, _, err) = keyward_in(&[&get[..], more].concat(), "", &environment);
            assert_eq!(code, FAILED, "{err}");
            assert!(
                err.contains(&format!("cannot connect to http://{free}")),
                "{err}"
            );
        }
    }
}

/// A reason is stored, and shown to everybody who may see the key.
#[test]
fn reason_with_a_key_is_refused() {
    const KEY: &str = "kw_X4KHzqJvPLXSlcd3H85m3pZvXvdEdKRfvEIVjio5rX23dYKf7";
    for reason in [KEY.to_owned(), format!("found {KEY}, in a log")] {
        for verb in [
            &["revoke", ID][..],
            &["epoch", "advance"],
            &["clock", "lower"],
        ] {
            let (code, _, err) = keyward(&[verb, &["--reason", &reason]].concat(), "");
            assert_eq!(code, USAGE, "{err}");
            assert!(
                err.contains("API key or token") && !err.contains("X4KH"),
                "{err}"
            );
        }
    }
    let mistyped = format!("{}8", &KEY[..51]);
    let arguments = [
        "epoch",
        "advance",
        "--reason",
        &mistyped,
        "--store",
        "postgres://owner@127.0.0.1/keyward",
    ];
    assert_eq!(keyward(&arguments, "").0, FAILED);
}

#[test]
fn requests_hold_the_arguments() {
    let Call::Revoke(args) = parse(&[
        "revoke",
        ID,
        "--replace",
        "--grace",
        "10m",
        "--reason",
        "leak",
    ]) else {
        panic!()
    };
    let request = keys::revoke_request(&args, &mut io::empty()).unwrap();
    assert!(request.replace && request.reason == "leak");
    assert_eq!(request.grace.unwrap().seconds, 600);

    let Call::Verify(args) = parse(&["verify", "-", "--scope", "a", "--strong"]) else {
        panic!()
    };
    let request = keys::verify_request(&args, &mut "kw_x\n".as_bytes()).unwrap();
    assert_eq!((request.api_key.as_str(), request.consistency), ("kw_x", 2));

    let Call::Issue(args) = parse(&[
        "issue",
        "--account",
        "42",
        "--metadata",
        "a=b=c",
        "--ttl",
        "30d",
    ]) else {
        panic!()
    };
    let request = keys::issue_request(&args);
    assert_eq!(request.metadata["a"], "b=c");
    assert_eq!(request.recoverable, None);
}

#[test]
fn update_mask_names_the_given_fields() {
    for (arguments, paths) in [
        (vec!["--scope", "a", "--enable"], vec!["scopes", "disabled"]),
        (
            vec!["--clear-metadata", "--clear-cidrs"],
            vec!["metadata", "allowed_cidrs"],
        ),
        (vec!["--never-expires"], vec!["expire_time"]),
        (vec!["--ttl", "1h"], vec!["expire_time"]),
    ] {
        let arguments = [vec!["update", ID], arguments].concat();
        let Call::Update(args) = parse(&arguments) else {
            panic!()
        };
        let request = keys::update_request(&args).unwrap();
        assert_eq!(request.update_mask.unwrap().paths, paths);
        let expires = request.key.unwrap().expire_time.is_some();
        assert_eq!(expires, arguments.contains(&"--ttl"));
    }
}
