//! Tests of the bot's settings: sources, refusals, and that no error contains a secret.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

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
        ..Inputs::default()
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn refused(inputs: Inputs) -> String {
    let error = load(inputs).unwrap_err().to_string();
    assert!(!error.contains("canary"), "{error}");
    error
}

#[test]
fn the_defaults_need_two_tokens() {
    let settings = load(inputs(&[], &[TOKEN, TOKEN_FILE], None)).unwrap();
    assert_eq!(
        settings.bots[0].telegram_api_url,
        "https://api.telegram.org"
    );
    assert_eq!(settings.endpoints, ["http://127.0.0.1:50051"]);
    assert_eq!(settings.hide_after, Some(Duration::from_secs(600)));
    assert_eq!(settings.bots[0].template.account(7), "tg-7");
    assert_eq!(
        (
            settings.bots[0].slots[0].name.as_str(),
            settings.bots[0].scopes.len()
        ),
        ("default", 0)
    );
    assert_eq!(
        (settings.reveals_per_hour, settings.revokes_per_hour),
        (30, 10)
    );
    assert!(settings.bots[0].webhook.is_none() && settings.bots[0].support.is_none());
    assert!(!format!("{settings:?}").contains("canary"));

    let error = refused(inputs(&[], &[], None));
    assert!(
        error.contains("telegram_token is missing: set KEYWARD_BOT_TELEGRAM_TOKEN"),
        "{error}"
    );
    assert!(
        error.contains("token_file is missing: name the file"),
        "{error}"
    );
}

#[test]
fn the_bot_has_variables_and_a_file_of_its_own() {
    let config = file("slot = \"file\"\nscopes = [\"a\", \"b\"]\n");
    let path = format!("{}\n", config.path().display());
    let variables = [
        TOKEN,
        TOKEN_FILE,
        ("KEYWARD_BOT_CONFIG", &path),
        ("KEYWARD_BOT_SUPPORT", "@us"),
        ("KEYWARD_MAX_STALENESS", "2s"),
        // Kubernetes injects these for a service with the name keyward-bot.
        ("KEYWARD_BOT_PORT", "tcp://10.0.0.1:9465"),
        ("KEYWARD_BOT_PORT_9465_TCP_ADDR", "10.0.0.1"),
        ("KEYWARD_BOT_SERVICE_HOST", "10.0.0.1"),
    ];
    let settings = load(inputs(&[], &variables, None)).unwrap();
    assert_eq!(settings.bots[0].slots[0].name, "file");
    assert_eq!(settings.bots[0].scopes, ["a", "b"]);
    assert_eq!(settings.bots[0].support.as_deref(), Some("@us"));

    let variables = [TOKEN, TOKEN_FILE, ("KEYWARD_BOT_SLOTT", "x")];
    let error = refused(inputs(&[], &variables, None));
    let expected = "variable KEYWARD_BOT_SLOTT is unknown; did you mean KEYWARD_BOT_SLOT?";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_token_comes_from_a_variable_or_a_file_of_its_own() {
    let token = file("123:canary\n");
    let flags = [("telegram_token_file", token.path().to_str().unwrap())];
    let settings = load(inputs(&flags, &[TOKEN_FILE], None)).unwrap();
    assert_eq!(settings.bots[0].telegram_token.expose(), "123:canary");
    let error = refused(inputs(&flags, &[TOKEN, TOKEN_FILE], None));
    assert!(error.contains("both set"), "{error}");

    let config = file("telegram_token = \"123:canary\"\n");
    let error = refused(inputs(&[], &[TOKEN, TOKEN_FILE], Some(config.path())));
    assert!(
        error.contains("telegram_token is a secret and cannot be set in a settings file"),
        "{error}"
    );
    for wrong in ["canary", ":canary", "123:", "12a:canary", "123:canary x"] {
        let error = refused(inputs(
            &[],
            &[("KEYWARD_BOT_TELEGRAM_TOKEN", wrong), TOKEN_FILE],
            None,
        ));
        assert!(error.contains("takes the token of a bot"), "{error}");
    }
    let config = file("telegram_token = \"123:canary\n");
    refused(inputs(&[], &[TOKEN, TOKEN_FILE], Some(config.path())));
}

#[test]
fn an_error_says_what_the_setting_takes() {
    for (name, value, expected) in [
        (
            "telegram_api_url",
            "http://198.51.100.7",
            "leads to another host without TLS",
        ),
        ("telegram_api_url", "ftp://x", "takes a URL"),
        (
            "telegram_api_url",
            "https://user:canary@x",
            "a URL without a user",
        ),
        (
            "endpoint",
            "http://127.0.0.1:1,http://keyward:2",
            "leads to another host without TLS",
        ),
        (
            "endpoint",
            "http://127.0.0.1:99999",
            "a port from 1 to 65535",
        ),
        ("endpoint", "https://[::1]:0", "a port from 1 to 65535"),
        ("http_listen", "9465", "takes an IP address and a port"),
        (
            "hide_after",
            "0s",
            "takes a duration from 1s to 30d, or none",
        ),
        ("hide_after", "soon", "takes a duration"),
        ("account_template", "me", "{user_id} once"),
        ("slot", "a b", "takes 1 to 64"),
        ("slots", "a", "takes NAME=TITLE"),
        ("slots", "a=A;xx:B", "a language is en, zh or ru"),
        ("slots", "a=en:A", "takes NAME=TITLE"),
        ("slots", "a b=A", "takes 1 to 64"),
        ("slots", "a=A,a=B", "with different names"),
        ("revoke_grace", "90m", "takes whole hours"),
        ("revoke_grace", "31d", "takes a duration from 1h to 30d"),
        ("account_url", "http://198.51.100.7/x", "without TLS"),
        ("account_url", "https://a:canary@x/", "a URL without a user"),
        ("account_url", "https://x/", "need each other"),
        ("account_token_file", "/nowhere", "need each other"),
        ("account_prefix", "ä", "printable ASCII"),
        ("bots", "[1]", "takes an array of tables"),
        ("bots", "[{slot = true}]", "table 1: slot takes a string"),
        ("bots", "[{slot = \"a b\"}]", "table 1: slot takes 1 to 64"),
        (
            "bots",
            "[{}, {log_format = \"json\"}]",
            "table 2: 'log_format'",
        ),
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
        let error = refused(inputs(&[(name, value)], &[TOKEN, TOKEN_FILE], None));
        assert!(
            error.contains(expected) && error.contains(name),
            "{name}: {error}"
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
fn white_space_does_not_count_and_an_empty_variable_is_unset() {
    let token = file("\n123:canary \r\n");
    let path = format!(" {}\n", token.path().display());
    let tokens = [
        ("KEYWARD_BOT_TELEGRAM_TOKEN", " 123:canary\n"),
        ("KEYWARD_BOT_TELEGRAM_TOKEN_FILE", &path),
    ];
    for used in 0..2 {
        let mut variables = tokens.to_vec();
        variables[1 - used].1 = "";
        variables.extend([
            ("KEYWARD_TOKEN_FILE", "/run/keyward-token\n"),
            ("KEYWARD_ENDPOINT", "https://a:1 ,\n https://b:2,\n"),
            ("KEYWARD_BOT_SUPPORT", ""),
            ("KEYWARD_BOT_HTTP_LISTEN", " "),
            ("KEYWARD_BOT_TELEGRAM_API_URL", "https://telegram.example\n"),
        ]);
        let settings = load(inputs(&[], &variables, None)).unwrap();
        assert_eq!(settings.bots[0].telegram_token.expose(), "123:canary");
        assert_eq!(
            settings.token_file.as_deref(),
            Some(Path::new("/run/keyward-token"))
        );
        assert_eq!(settings.endpoints, ["https://a:1", "https://b:2"]);
        assert_eq!(
            settings.bots[0].telegram_api_url,
            "https://telegram.example"
        );
        assert!(settings.bots[0].support.is_none() && settings.http_listen.is_some());
    }
    let error = refused(inputs(&[("endpoint", ",")], &[TOKEN, TOKEN_FILE], None));
    assert!(error.contains("endpoint"), "{error}");
}

#[test]
fn a_webhook_needs_a_secret() {
    let with = |secret: &tempfile::NamedTempFile| {
        let path = secret.path().to_str().unwrap();
        let flags = [
            ("webhook_url", "https://bot.example/tg"),
            ("webhook_secret_file", path),
        ];
        inputs(&flags, &[TOKEN, TOKEN_FILE], None)
    };
    let settings = load(with(&file("canary-canary-canary\n"))).unwrap();
    let webhook = settings.bots[0].webhook.as_ref().unwrap();
    assert_eq!(
        (webhook.url.uri().path(), webhook.secret.expose()),
        ("/tg", "canary-canary-canary")
    );
    let error = refused(with(&file("canary")));
    assert!(error.contains("must contain 16 to 256"), "{error}");
}

#[test]
fn a_host_product_needs_a_token() {
    let token = file("canary-of-the-host\n");
    let path = token.path().to_str().unwrap();
    let loaded = |url: &str, path: &str| {
        let flags = [
            ("account_url", url),
            ("account_token_file", path),
            ("account_prefix", "a-"),
        ];
        load(inputs(&flags, &[TOKEN, TOKEN_FILE], None))
    };
    for url in ["https://host.example/x?y=1", "http://127.0.0.1:1/"] {
        let settings = loaded(url, path).unwrap();
        let host = settings.bots[0].host.as_ref().unwrap();
        assert_eq!((host.url.expose(), host.prefix.as_str()), (url, "a-"));
        assert!(!format!("{settings:?}").contains("canary"));
    }
    for (text, expected) in [("", "one token"), ("canary canary", "one token")] {
        let token = file(text);
        let error = loaded("https://x/", token.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = loaded("https://x/", "/nowhere/token")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("account_token_file") && error.contains("cannot be read"),
        "{error}"
    );
}

#[test]
fn each_table_is_a_bot_that_starts_with_the_settings_for_all() {
    let tokens = ["1:canary-one", "2:canary-two"].map(file);
    let [one, two] = tokens
        .each_ref()
        .map(|file| file.path().display().to_string());
    let loaded = |tables: &str| {
        let text = format!("support = \"@all\"\nslots = [\"live=Live\"]\n{tables}");
        let config = file(&text);
        load(inputs(&[], &[TOKEN_FILE], Some(config.path())))
    };
    let first = format!("[[bots]]\ntelegram_token_file = {one:?}\n");
    let second = format!(
        "[[bots]]\ntelegram_token_file = {two:?}\nslots = [\"a=A\", \"b=B\"]\n\
         support = \"@two\"\nrevoke_grace = \"2h\"\n"
    );
    let settings = loaded(&format!("{first}{second}")).unwrap();
    let found = settings.bots.iter().map(|bot| {
        let support = bot.support.clone().unwrap();
        (bot.id(), bot.slots.len(), support, bot.revoke_grace)
    });
    let expected = [
        ("1", 1, "@all".to_owned(), None),
        ("2", 2, "@two".to_owned(), Some(2)),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);

    let third = format!("[[bots]]\ntelegram_token_file = {one:?}\n");
    let error = loaded(&format!("{first}{third}")).unwrap_err().to_string();
    assert!(
        error.contains("table 2: bot 1 is in another table"),
        "{error}"
    );
    let token = file("canary-of-the-host");
    let host = |token_file: &str, prefix: &str| {
        format!(
            "[[bots]]\ntelegram_token_file = {token_file:?}\naccount_url = \"https://x.example/\"\n\
             account_token_file = {:?}\naccount_prefix = {prefix:?}\n",
            token.path()
        )
    };
    for (prefixes, is_right) in [
        (["a-", "b-"], true),
        (["a-", "a-"], true),
        (["a-", "a-b-"], false),
        (["a-b-", "a-"], false),
        (["none", "a-"], false),
    ] {
        let tables = host(&one, prefixes[0]) + &host(&two, prefixes[1]);
        let error = loaded(&tables).map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(error.is_empty(), is_right, "{prefixes:?}: {error}");
        assert!(
            is_right || error.contains("a prefix that begins no other one"),
            "{error}"
        );
    }
    let template = |token_file: &str, prefix: &str| {
        format!(
            "[[bots]]\ntelegram_token_file = {token_file:?}\naccount_template = \"{prefix}{{user_id}}\"\n"
        )
    };
    for (tables, is_right) in [
        (first.clone() + &host(&two, "none"), false),
        // With the account 001 it would be the one of user 1001.
        (template(&one, "tg-") + &host(&two, "tg-1"), false),
        (host(&one, "tg-1") + &template(&two, "tg-"), false),
        (template(&one, "tg-") + &template(&two, "tg-1"), false),
        (template(&one, "tg-1") + &template(&two, "tg-"), false),
        (template(&one, "tg-") + &template(&two, "tg-"), true),
        (template(&one, "tg-") + &host(&two, "shop-"), true),
    ] {
        assert_eq!(loaded(&tables).is_ok(), is_right, "{tables}");
    }
    let missing = "[[bots]]\ntelegram_token_file = \"/nowhere\"\n";
    let error = loaded(&format!("{first}{missing}"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bots, table 2: telegram_token_file: /nowhere cannot be read"),
        "{error}"
    );
    assert!(!error.contains("canary"), "{error}");
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
            "client_certificate",
            "account_token_file",
        ]
        .contains(&setting.name)
            || setting.name == "webhook_secret_file"
        {
            continue;
        }
        let flags = [(setting.name, "\u{7}")];
        let error = refused(inputs(&flags, &[TOKEN, TOKEN_FILE], None));
        assert!(error.contains(setting.name), "{error}");
    }
}

#[test]
fn a_certificate_replaces_the_token_of_keyward() {
    let files = [("client_certificate", "bot.crt"), ("client_key", "bot.key")];
    let settings = load(inputs(&files, &[TOKEN], None)).unwrap();
    assert_eq!(settings.token_file, None);
    assert_eq!(settings.client_key.as_deref(), Some(Path::new("bot.key")));
    for one in files {
        let error = refused(inputs(&[one], &[TOKEN, TOKEN_FILE], None));
        assert!(error.contains("need each other"), "{error}");
    }
}

#[test]
fn readme_has_the_table_of_settings() {
    let (readme, table) = (
        include_str!("../../README.md"),
        engine::markdown::<Values>(),
    );
    assert!(
        readme.contains(&table),
        "README.md needs this table:\n{table}"
    );
}
