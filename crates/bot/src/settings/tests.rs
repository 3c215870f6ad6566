//! What is given where, what is refused and how that is said, and that no secret is said at all.

use std::ffi::OsString;
use std::io::Write as _;

use super::*;

const TOKEN: (&str, &str) = ("KEYWARD_BOT_TELEGRAM_TOKEN", "123:canary");
const TOKEN_FILE: (&str, &str) = ("KEYWARD_TOKEN_FILE", "/run/keyward-token");

fn inputs(flags: &[(&str, &str)], variables: &[(&str, &str)], config: Option<&Path>) -> Inputs {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let variable = |(name, value): &(&str, &str)| (OsString::from(*name), OsString::from(*value));
    Inputs {
        flags: flags.iter().map(owned).collect(),
        config: config.map(Path::to_owned),
        environment: variables.iter().map(variable).collect(),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn refused(inputs: Inputs) -> String {
    let said = load(inputs).unwrap_err().to_string();
    assert!(!said.contains("canary"), "{said}");
    said
}

#[test]
fn the_defaults_need_a_token_for_each_side() {
    let settings = load(inputs(&[], &[TOKEN, TOKEN_FILE], None)).unwrap();
    assert_eq!(settings.telegram_api_url, "https://api.telegram.org");
    assert_eq!(settings.endpoints, ["http://127.0.0.1:50051"]);
    assert_eq!(settings.hide_after, Some(Duration::from_secs(600)));
    assert_eq!(settings.accounts.of(7), "tg-7");
    assert_eq!(
        (settings.slot.as_str(), settings.scopes.len()),
        ("default", 0)
    );
    assert_eq!(
        (settings.reveals_per_hour, settings.revokes_per_hour),
        (30, 10)
    );
    assert!(settings.webhook.is_none() && settings.support.is_none());
    assert!(!format!("{settings:?}").contains("canary"));

    let said = refused(inputs(&[], &[], None));
    assert!(
        said.contains("telegram_token is missing: set KEYWARD_BOT_TELEGRAM_TOKEN"),
        "{said}"
    );
    assert!(
        said.contains("token_file = '' (default): is needed"),
        "{said}"
    );
}

#[test]
fn flags_beat_variables_and_variables_the_file() {
    let config = file("slot = \"file\"\nrevokes_per_hour = 3\nscopes = [\"a\", \"b\"]\n");
    let variables = [
        TOKEN,
        TOKEN_FILE,
        ("KEYWARD_BOT_SLOT", "variable"),
        ("KEYWARD_BOT_SUPPORT", "@us"),
    ];
    let settings = load(inputs(&[("slot", "flag")], &variables, Some(config.path()))).unwrap();
    assert_eq!(settings.slot, "flag");
    assert_eq!(settings.revokes_per_hour, 3);
    assert_eq!(settings.scopes, ["a", "b"]);
    assert_eq!(settings.support.as_deref(), Some("@us"));
    let settings = load(inputs(&[], &variables, Some(config.path()))).unwrap();
    assert_eq!(settings.slot, "variable");

    let path = config.path().to_str().unwrap();
    let variables = [TOKEN, TOKEN_FILE, ("KEYWARD_BOT_CONFIG", path)];
    assert_eq!(load(inputs(&[], &variables, None)).unwrap().slot, "file");
}

#[test]
fn the_token_may_stand_in_a_file_of_its_own_and_nowhere_else() {
    let token = file("123:canary\n");
    let flags = [("telegram_token_file", token.path().to_str().unwrap())];
    let settings = load(inputs(&flags, &[TOKEN_FILE], None)).unwrap();
    assert_eq!(settings.telegram_token.expose(), "123:canary");
    let said = refused(inputs(&flags, &[TOKEN, TOKEN_FILE], None));
    assert!(said.contains("both given"), "{said}");

    let config = file("telegram_token = \"123:canary\"\n");
    let said = refused(inputs(&[], &[TOKEN, TOKEN_FILE], Some(config.path())));
    assert!(
        said.contains("may not stand in a file of settings"),
        "{said}"
    );
    for wrong in ["canary", ":canary", "123:", "12a:canary", "123:canary x"] {
        let said = refused(inputs(
            &[],
            &[("KEYWARD_BOT_TELEGRAM_TOKEN", wrong), TOKEN_FILE],
            None,
        ));
        assert!(said.contains("takes the token of a bot"), "{said}");
    }
    let config = file("telegram_token = \"123:canary\n");
    refused(inputs(&[], &[TOKEN, TOKEN_FILE], Some(config.path())));
}

#[test]
fn what_is_misspelt_is_named_with_what_was_meant() {
    let config = file("hide_affter = \"1m\"\nsomething_else = 1\n");
    let variables = [
        TOKEN,
        TOKEN_FILE,
        ("KEYWARD_BOT_SLOTT", "x"),
        ("KEYWARD_MAX_STALENESS", "2s"),
    ];
    let said = refused(inputs(&[], &variables, Some(config.path())));
    for expected in [
        "setting 'hide_affter' is unknown; did you mean hide_after?",
        "setting 'something_else' is unknown; --help lists the settings",
        "variable KEYWARD_BOT_SLOTT is unknown; did you mean KEYWARD_BOT_SLOT?",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    assert!(!said.contains("STALENESS"), "{said}");
    let said = refused(inputs(
        &[],
        &[TOKEN, TOKEN_FILE],
        Some(Path::new("/nowhere.toml")),
    ));
    assert!(said.contains("file /nowhere.toml"), "{said}");
}

#[test]
fn a_wrong_value_is_refused_with_what_it_takes() {
    for (name, value, expected) in [
        (
            "telegram_api_url",
            "http://198.51.100.7",
            "leads to another host without TLS",
        ),
        ("telegram_api_url", "ftp://x", "takes a URL"),
        ("telegram_api_url", "https://user:p@x", "takes a URL"),
        (
            "endpoint",
            "http://127.0.0.1:1,http://keyward:2",
            "leads to another host without TLS",
        ),
        ("endpoint", "http://127.0.0.1:99999", "its port is none"),
        ("endpoint", "https://[::1]:0", "its port is none"),
        ("http_listen", "9465", "takes an IP address and a port"),
        (
            "hide_after",
            "0s",
            "takes a duration from 1s to 30days, or none",
        ),
        ("hide_after", "soon", "takes a duration"),
        ("account_template", "me", "holds {user_id} once"),
        ("slot", "a b", "takes 1 to 64"),
        ("scopes", "a,,b", "takes up to 64 scopes"),
        ("reveals_per_hour", "0", "takes a number from 1 to 100000"),
        ("support", "a\nb", "takes up to 128 characters"),
        ("insecure", "yes", "takes true or false"),
        ("log_format", "xml", "takes text or json"),
        ("webhook_url", "http://x/y", "takes an https URL"),
        (
            "webhook_url",
            "https://x/y",
            "webhook_secret_file is needed",
        ),
    ] {
        let said = refused(inputs(&[(name, value)], &[TOKEN, TOKEN_FILE], None));
        assert!(
            said.contains(expected) && said.contains(name),
            "{name}: {said}"
        );
    }
    let flags = [
        ("endpoint", "http://keyward:2"),
        ("insecure", "true"),
        ("hide_after", "none"),
    ];
    let settings = load(inputs(&flags, &[TOKEN, TOKEN_FILE], None)).unwrap();
    assert_eq!((settings.endpoints.len(), settings.hide_after), (1, None));
}

#[test]
fn a_webhook_has_a_secret() {
    let secret = file("canary-canary-canary\n");
    let path = secret.path().to_str().unwrap();
    let flags = [
        ("webhook_url", "https://bot.example/tg"),
        ("webhook_secret_file", path),
    ];
    let webhook = load(inputs(&flags, &[TOKEN, TOKEN_FILE], None))
        .unwrap()
        .webhook
        .unwrap();
    assert_eq!(
        (webhook.path.as_str(), webhook.secret.expose()),
        ("/tg", "canary-canary-canary")
    );
    let short = file("canary");
    let path = short.path().to_str().unwrap();
    let flags = [
        ("webhook_url", "https://bot.example/tg"),
        ("webhook_secret_file", path),
    ];
    let said = refused(inputs(&flags, &[TOKEN, TOKEN_FILE], None));
    assert!(said.contains("holds 16 to 256"), "{said}");
}

#[test]
fn every_setting_is_read() {
    // A value that no setting takes is refused by each: so each is looked at.
    for setting in TABLE {
        if [
            "telegram_token",
            "telegram_token_file",
            "token_file",
            "ca_file",
        ]
        .contains(&setting.name)
            || setting.name == "webhook_secret_file"
        {
            continue;
        }
        let flags = [(setting.name, "\u{7}")];
        let said = refused(inputs(&flags, &[TOKEN, TOKEN_FILE], None));
        assert!(said.contains(&format!("{} = ", setting.name)), "{said}");
    }
}

#[test]
fn the_readme_lists_every_setting() {
    let readme = include_str!("../../README.md");
    for setting in TABLE {
        let default = match setting.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let row = format!("| `{}` | {default} | {}. |", setting.name, setting.help);
        assert!(readme.contains(&row), "{row}");
    }
}
