//! Tests of the settings: precedence, provenance, refusals.

use std::ffi::OsString;
use std::path::Path;

use super::*;

mod keys;
mod postgres;
mod redis;
mod webhooks;

struct Case {
    dir: tempfile::TempDir,
    inputs: Inputs,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inputs = Inputs {
            default_file: dir.path().join("keyward.toml"),
            ..Inputs::default()
        };
        Self { dir, inputs }
    }

    fn file(self, text: &str) -> Self {
        std::fs::write(&self.inputs.default_file, text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.inputs.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.inputs.flags.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<Effective, Errors> {
        load(self.inputs.clone())
    }

    fn errors(&self) -> Vec<String> {
        self.load().unwrap_err().0
    }

    /// The only error, which does not repeat the password.
    fn error(&self) -> String {
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(!errors[0].contains("hunter2"), "{errors:?}");
        errors.into_iter().next().unwrap()
    }

    fn entry(&self, name: &str) -> (String, Source) {
        let entries = self.load().unwrap().entries;
        let entry = entries
            .into_iter()
            .find(|entry| entry.name == name)
            .unwrap();
        (entry.value, entry.source)
    }
}

/// The file of the embedded store.
fn file(settings: &Settings) -> &Path {
    match &settings.store {
        Store::Sqlite(path) => path,
        Store::Postgres(urls) => panic!("{urls}"),
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    let effective = Case::new().load().unwrap();
    let settings = effective.settings;
    assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(settings.http_listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(file(&settings), Path::new("./keyward-data/keyward.db"));
    assert_eq!(settings.keyring, Path::new("./keyward-data/keyring"));
    assert_eq!(settings.max_staleness, Duration::from_secs(15));
    assert_eq!(settings.key_prefixes, [Prefix::new("kw").unwrap()]);
    assert!(!settings.insecure && !settings.forbid_recoverable);
    assert!(settings.workers >= 1 && settings.telemetry.otlp_endpoint.is_none());
    assert_eq!(settings.redis, None);
    assert!(
        effective
            .entries
            .iter()
            .all(|entry| entry.source == Source::Default)
    );
    let names = effective.entries.iter().map(|entry| entry.name);
    assert!(names.eq(TABLE.iter().map(|setting| setting.name)));
}

#[test]
fn flags_override_variables_and_variables_the_file() {
    let case = Case::new().file("max_staleness = \"10s\"\nworkers = 3\n");
    let file = Source::File(case.inputs.default_file.clone());
    assert_eq!(
        case.entry("max_staleness"),
        ("10s".to_owned(), file.clone())
    );
    assert_eq!(case.entry("workers"), ("3".to_owned(), file));

    let case = case.variable("KEYWARD_MAX_STALENESS", "20s");
    let variable = Source::Variable("KEYWARD_MAX_STALENESS".to_owned());
    assert_eq!(case.entry("max_staleness"), ("20s".to_owned(), variable));

    let case = case.flag("max_staleness", "1m");
    let flag = Source::Flag("--max-staleness".to_owned());
    assert_eq!(case.entry("max_staleness"), ("1m".to_owned(), flag));
}

#[test]
fn a_wrong_value_that_is_overridden_is_ignored() {
    let case = Case::new().file("workers = 999\n");
    assert!(case.load().is_err());
    assert_eq!(
        case.flag("workers", "0").load().unwrap().settings.workers,
        0
    );
}

#[test]
fn derived_defaults_follow_the_data_directory() {
    let case = Case::new()
        .variable("KEYWARD_DATA_DIR", "/srv/kw")
        .flag("key_prefixes", "acme, kw");
    let settings = case.load().unwrap().settings;
    assert_eq!(settings.keyring, Path::new("/srv/kw/keyring"));
    assert_eq!(file(&settings), Path::new("/srv/kw/keyward.db"));
    assert_eq!(settings.key_prefixes[0].as_str(), "acme");
    let case = case
        .flag("store", "sqlite:other.db")
        .flag("http_listen", "off");
    let settings = case.load().unwrap().settings;
    assert_eq!(file(&settings), Path::new("other.db"));
    assert_eq!(settings.http_listen, None);
}

#[test]
fn a_data_directory_must_be_one_that_the_store_can_name() {
    for directory in ["./dyw?tara", "//srv/kw", ":memory:"] {
        let case = Case::new().flag("data_dir", directory);
        let errors = case.errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with("store") && errors[0].contains("data_dir"),
            "{errors:?}"
        );
        let case = case.flag("store", "sqlite:keyward.db");
        assert!(case.load().is_ok(), "{directory}");
    }
}

#[test]
fn only_a_named_file_must_exist() {
    let mut case = Case::new();
    assert!(case.load().is_ok());
    let missing = case.dir.path().join("missing.toml");
    case.inputs.config = Some(missing.clone());
    assert_eq!(
        case.errors(),
        [format!("{}: there is no such file", missing.display())]
    );
    case.inputs.config = None;
    let case = case.variable("KEYWARD_CONFIG", missing.to_str().unwrap());
    assert_eq!(case.errors().len(), 1);
}

#[test]
fn an_unknown_name_is_refused_with_a_suggestion() {
    let case = Case::new()
        .file("max_stalenes = \"10s\"\n")
        .variable("KEYWARD_LISTN", "x");
    let errors = case.errors();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(
        errors[0],
        "variable KEYWARD_LISTN is unknown; did you mean KEYWARD_LISTEN?"
    );
    assert!(errors[1].ends_with("key 'max_stalenes' is unknown; did you mean max_staleness?"));

    let errors = Case::new().file("[completely_different]\nx = 1\n").errors();
    assert!(
        errors[0].contains("is unknown; known are listen, "),
        "{errors:?}"
    );
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let mut case = Case::new()
        .variable("KEYWARD_ENDPOINT", "http://x")
        .variable("KEYWARD_TOKEN_FILE", "x")
        .variable("KEYWARD_CA_FILE", "x")
        .variable("KEYWARD_BOT_TELEGRAM_TOKEN", "x")
        .variable("KEYWARD_SERVICE_HOST", "10.0.0.1")
        .variable("KEYWARD_PORT", "tcp://10.0.0.1:50051")
        .variable("KEYWARD_PORT_50051_TCP_ADDR", "10.0.0.1")
        .variable("PATH", "/bin");
    case.inputs
        .environment
        .push((OsString::from("keyward_listen"), "lower case".into()));
    assert!(case.load().is_ok());
}

#[test]
fn all_wrong_values_are_reported_at_once() {
    let case = Case::new()
        .file("listen = 5\nkey_prefixes = [1]\ninsecure = \"maybe\"\n")
        .variable("KEYWARD_MAX_STALENESS", "1s")
        .flag("workers", "257");
    let errors = case.errors();
    assert_eq!(errors.len(), 5, "{errors:?}");
    let at = case.inputs.default_file.display();
    for expected in [
        format!(
            "listen = '5' (file {at}): takes an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051; or unix:PATH"
        ),
        format!("key_prefixes = '[1]' (file {at}): takes an array of strings"),
        format!("insecure = 'maybe' (file {at}): takes true or false"),
        "max_staleness = '1s' (variable KEYWARD_MAX_STALENESS): takes a duration from 2s to 60s"
            .into(),
        "workers = '257' (flag --workers): takes a number from 0 to 256".into(),
    ] {
        assert!(
            errors.contains(&expected),
            "{expected} is not in {errors:?}"
        );
    }
}

#[test]
fn wrong_values_are_refused() {
    for (name, value) in [
        ("listen", "localhost:1"),
        ("listen", "none"),
        ("http_listen", ""),
        ("data_dir", ""),
        ("store", "postgres://u:hunter2@db"),
        ("store", "postgres:u:hunter2@db/x"),
        ("store", "host=db user=u password=hunter2"),
        ("store", "mysql://u:hunter2@db/x"),
        ("store", "sqlite::memory:"),
        ("store", "sqlite:///x"),
        ("redis", ""),
        ("redis", "h:6379"),
        ("redis", "redis://hunter2@h"),
        ("redis", "hunter2@h:6379"),
        ("max_staleness", "61s"),
        ("max_staleness", "15"),
        ("key_prefixes", "kwt"),
        ("key_prefixes", "kw,kw"),
        ("key_prefixes", ""),
        ("key_prefixes", "KW"),
        ("forbid_recoverable", "yes"),
        ("workers", "-1"),
        ("log_format", "xml"),
        ("otlp_endpoint", "ftp://x"),
        ("otlp_endpoint", "http://"),
    ] {
        let errors = Case::new().flag(name, value).errors();
        assert_eq!(errors.len(), 1, "{name} = {value}: {errors:?}");
        assert!(errors[0].starts_with(name), "{errors:?}");
        assert!(!errors[0].contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn an_exposed_address_needs_insecure() {
    let case = Case::new()
        .flag("listen", "0.0.0.0:50051")
        .flag("rest_listen", "[::]:8080")
        .flag("http_listen", "[::]:9464");
    let errors = case.errors();
    assert_eq!(errors.len(), 3);
    for (error, flag) in errors
        .iter()
        .zip(["--listen", "--rest-listen", "--http-listen"])
    {
        let is_explained = error.contains(flag) && error.contains("insecure = true");
        assert!(is_explained, "{error}");
    }
    assert!(case.flag("insecure", "true").load().is_ok());
    assert!(
        Case::new()
            .flag("listen", "[::1]:0")
            .flag("http_listen", "[::ffff:127.0.0.1]:0")
            .load()
            .is_ok()
    );
}

#[test]
fn otlp_password_is_not_shown() {
    let case = Case::new().flag("otlp_endpoint", "http://me:hunter2@collector:4317");
    let effective = case.load().unwrap();
    assert_eq!(
        case.entry("otlp_endpoint").0,
        "http://me:***@collector:4317"
    );
    assert!(!format!("{effective:?}").contains("hunter2"));
    assert!(
        effective
            .settings
            .telemetry
            .otlp_endpoint
            .unwrap()
            .expose()
            .contains("hunter2")
    );
}

#[test]
fn no_output_contains_a_password() {
    let secret = "canary";
    let shapes = [
        "S",
        "u:S@h/d",
        "postgres://u:S@h",
        "postgres://u:S@S@h/d",
        "postgres://u:S/d",
        "postgres://u:S@127.0.0.1/d",
        "postgres://u:S@h/d,mysql://u:S@h/d",
        "postgres://u@h/d?password=S&S",
        "postgres://u@127.0.0.1/d?password=S",
        "postgres://u@h/d?unknown=S",
        "host=h password=S",
        "redis://S@h",
        "redis://:S@127.0.0.1",
        "redis://:S@h?S",
        "redis+unix:///s?password=S",
        "redis+unix:///s?pass=S",
        "redis+cluster://h,i:S",
        "http://u:S@h:1",
        "http://S@h:1",
        "http://h:S",
        "ftp://u:S@h",
    ];
    for (shape, name) in shapes.iter().flat_map(|shape| {
        let names = TABLE.iter().map(|setting| setting.name);
        let confidential = ["store", "redis", "otlp_endpoint"];
        names
            .filter(move |name| confidential.contains(name))
            .map(move |name| (shape, name))
    }) {
        let text = shape.replace('S', secret);
        let flag = Case::new().flag(name, &text);
        let variable = Case::new().variable(&format!("KEYWARD_{}", name.to_uppercase()), &text);
        let file = Case::new().file(&format!("{name} = {text:?}\n"));
        let list = Case::new().file(&format!("{name} = [{text:?}]\n"));
        let broken = Case::new().file(&format!("{name} = {text}\n"));
        for case in [flag, variable, file, list, broken] {
            let output = match case.load() {
                Ok(effective) => format!("{effective:?}"),
                Err(errors) => format!("{errors} {errors:?}"),
            };
            assert!(!output.contains(secret), "{name} = {text}: {output}");
        }
    }
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let errors = Case::new().file("workers = 1\nlisten =\n").errors();
    assert!(errors[0].contains("keyward.toml, line 2: "), "{errors:?}");
}

#[test]
fn documentation_lists_every_setting_once() {
    let text = markdown();
    for setting in TABLE {
        assert_eq!(
            text.matches(&format!("\n| `{}` |", setting.name)).count(),
            1
        );
        assert!(
            !setting.help.ends_with('.') && !setting.help.contains('|'),
            "{}",
            setting.name
        );
    }
}

#[test]
fn tls_takes_both_files_and_needs_no_insecure() {
    for (given, missing) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
        let errors = Case::new().flag(given, "x.pem").errors();
        assert_eq!(
            errors,
            [format!(
                "{given} = 'x.pem' (flag --{}): is set without {missing}: TLS needs both",
                given.replace('_', "-")
            )]
        );
    }
    let case = Case::new()
        .flag("tls_cert", "c.pem")
        .variable("KEYWARD_TLS_KEY", "k.pem")
        .flag("listen", "0.0.0.0:50051")
        .flag("rest_listen", "[::]:8080")
        .flag("http_listen", "[::]:9464");
    let settings = case.load().unwrap().settings;
    assert_eq!(
        settings.tls(),
        Some((Path::new("c.pem"), Path::new("k.pem")))
    );
    assert_eq!(case.entry("tls_key").0, "k.pem");
    let case = Case::new().flag("tls_cert", "none").flag("tls_key", "off");
    assert_eq!(case.load().unwrap().settings.tls(), None);
}
