//! Tests of the commands that call no service: their settings and arguments, and when they are
//! refused.

use super::{DONE, FAILED, USAGE, keyward, keyward_in};

const STORE: &str = "postgres://owner:hunter2@127.0.0.1/keyward";
const SHOWN: &str = "Postgres(postgres://owner:***@127.0.0.1/keyward)";

#[test]
fn each_verb_gets_its_settings_and_arguments() {
    for (arguments, expected) in [
        (&["migrate"][..], format!("migrate {SHOWN} None\n")),
        (
            &["migrate", "--service-role", "key ward"],
            format!("migrate {SHOWN} Some(\"key ward\")\n"),
        ),
        (&["init"], format!("init {SHOWN} None None\n")),
        (
            &["init", "--service-role", "kw", "--token-file", "/x/y"],
            format!("init {SHOWN} Some(\"kw\") Some(\"/x/y\")\n"),
        ),
        (
            &["init", "--if-new"],
            format!("init {SHOWN} None None if new\n"),
        ),
    ] {
        let by_flag = [arguments, &["--store", STORE]].concat();
        let done = (DONE, expected, String::new());
        assert_eq!(keyward(&by_flag, ""), done);
        assert_eq!(keyward_in(arguments, "", &[("KEYWARD_STORE", STORE)]), done);
    }
}

#[test]
fn findings_are_a_table_and_an_error_is_a_failure() {
    let (code, out, err) = keyward(&["doctor", "--store", STORE], "");
    assert_eq!((code, err.as_str()), (DONE, ""));
    let rows = [
        "LEVEL    SUBJECT  FINDING".to_owned(),
        format!("ok       store    {SHOWN}"),
        "warning  tls      it ends\n".to_owned(),
    ];
    assert_eq!(out, rows.join("\n"));
    let arguments = ["doctor", "--output", "json", "--workers", "7"];
    let (code, out, err) = keyward(&arguments, "");
    assert_eq!(code, FAILED);
    assert_eq!(err, "error: 1 of 3 findings stops Keyward\n");
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let last = serde_json::json!({
        "level": "error", "subject": "keyring", "finding": "it is gone",
    });
    assert_eq!(found["findings"][2], last);
    let (code, out, _) = keyward(&["doctor", "--workers", "many"], "");
    assert_eq!(code, FAILED);
    assert!(out.contains("settings  workers = 'many'"), "{out}");
}

#[test]
fn failure_is_printed_on_stderr() {
    let reason = "restored, ticket 7";
    let arguments = ["epoch", "advance", "--reason", reason, "--store", STORE];
    let err = format!("error: advance {SHOWN} {reason}\n");
    assert_eq!(keyward(&arguments, ""), (FAILED, String::new(), err));
}

#[test]
fn first_token_ignores_the_variable_for_the_callers_token() {
    let environment = [("KEYWARD_TOKEN_FILE", "/x/y"), ("KEYWARD_STORE", STORE)];
    let (code, out, _) = keyward_in(&["init"], "", &environment);
    assert_eq!((code, out), (DONE, format!("init {SHOWN} None None\n")));
}

#[test]
fn embedded_store_does_not_need_the_verbs() {
    for (arguments, reason) in [
        (&["migrate"][..], "updates its schema at each start"),
        (
            &["init"],
            "creates its keyring and its first token at the first start",
        ),
        (
            &["epoch", "advance", "--reason", "x"],
            "begins a new epoch at each start",
        ),
    ] {
        for store in ["sqlite:", "sqlite:/x/y.db"] {
            let arguments = [arguments, &["--store", store]].concat();
            let (code, out, err) = keyward(&arguments, "");
            assert_eq!((code, out.as_str()), (USAGE, ""));
            let named = format!("`keyward {}", arguments[0]);
            assert!(err.contains(reason) && err.contains(&named), "{err}");
        }
    }
}

#[test]
fn wrong_argument_is_a_usage_error_without_a_password() {
    let long_role = "r".repeat(64);
    let long_reason = "r".repeat(501);
    for arguments in [
        &["migrate", "--service-role", ""][..],
        &["migrate", "--service-role", &long_role],
        &["init", "--service-role", "a\nb"],
        &["migrate", "--token-file", "x"],
        &["migrate", STORE],
        &["migrate", &format!("--stor={STORE}")],
        &["init", "--output", "json"],
        &["epoch"],
        &["epoch", "advance"],
        &["epoch", "advance", "--reason", ""],
        &["epoch", "advance", "--reason", "a\tb"],
        &["epoch", "advance", "--reason", &long_reason],
        &["epoch", "advance", "--reason", "x", "--workers", "many"],
        &["clock", "lower"],
        &["clock", "lower", "--reason", "x", "--expired", "maybe"],
        &["migrate", "--store", "postgres://owner:hunter2@127.0.0.1"],
    ] {
        let arguments = [&["--store", STORE], arguments].concat();
        let (code, out, err) = keyward(&arguments, "");
        assert_eq!((code, out.as_str()), (USAGE, ""), "{arguments:?}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
}

#[test]
fn help_names_the_settings() {
    for (arguments, own) in [
        (&["migrate", "--help"][..], "--service-role <ROLE>"),
        (&["init", "--help"], "--token-file <FILE>"),
        (&["epoch", "advance", "--help"], "--reason <TEXT>"),
        (&["clock", "lower", "--help"], "--expired <DECISION>"),
        (&["doctor", "--help"], "--output <FORMAT>"),
    ] {
        let (code, out, _) = keyward(arguments, "");
        assert_eq!(code, DONE);
        for expected in [
            own,
            "--store <STORE>",
            "--keyring <DIRECTORY>",
            "--insecure",
        ] {
            assert!(out.contains(expected), "{expected}: {out}");
        }
        assert!(!out.contains("--endpoint"), "{out}");
    }
}
