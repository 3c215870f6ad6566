//! Tests of what the settings of all programs share: no text of a confidential setting is shown,
//! variables of Kubernetes are ignored, values are checked.

use std::ffi::OsString;
use std::time::Duration;

use super::values::{Url, duration, is_local, number, secret_file};
use super::*;

#[derive(Debug, Default)]
struct Example {
    url: Option<Url>,
    token: String,
}

impl Schema for Example {
    const PREFIX: &'static str = "EXAMPLE_";
    const FILE: &'static str = "example.toml";
    const FOREIGN: &'static [&'static str] = &["EXAMPLE_OTHER", "EXAMPLE_TOOL_*"];
    const TABLE: &'static [Setting<Self>] = &[
        Setting::<Self>::new("url", Takes::Value("URL"), "none", "A URL", |s, text| {
            values::optional(text, Url::new).map(|url| s.url = url)
        })
        .shown(|s| values::shown(s.url.as_ref()))
        .confidential(),
        Setting::<Self>::new("token", Takes::Value("TOKEN"), "", "A token", |s, text| {
            s.token = text.to_owned();
            match text.contains('!') {
                true => Err("takes no !".to_owned()),
                false => Ok(()),
            }
        })
        .confidential()
        .variable_only(),
    ];

    fn check(&mut self, _: &[Entry], _: &mut Vec<String>) {}
}

fn variables(list: &[(&str, &str)]) -> Inputs {
    let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    Inputs {
        environment: list.iter().map(owned).collect(),
        ..Inputs::default()
    }
}

/// Everything that a program prints about its settings.
fn output(inputs: Inputs) -> String {
    match load::<Example>(inputs) {
        Ok(Effective { entries, .. }) => format!("{entries:?}"),
        Err(errors) => format!("{errors} {errors:?}"),
    }
}

#[test]
fn no_output_contains_the_text_of_a_confidential_setting() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let in_file = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        Inputs {
            default_file: file.path().to_owned(),
            ..Inputs::default()
        }
    };
    for text in [
        "canary",
        "http://canary@host",
        "http://user:canary@host/path",
        "http://user:canary@canary@host",
        "http://host:canary",
        "http://host?canary",
        "http://host\\canary",
        "ftp://user:canary@host",
        "!canary",
    ] {
        for name in ["EXAMPLE_URL", "EXAMPLE_TOKEN"] {
            let output = output(variables(&[(name, text)]));
            assert!(!output.contains("canary"), "{output}");
        }
        let quoted = format!("{text:?}");
        for line in [
            format!("url = {quoted}"),
            format!("url = [{quoted}]"),
            format!("token = {quoted}"),
            format!("url = {quoted}, 1"),
            format!("url = \"{text}"),
        ] {
            let output = output(in_file(&line));
            assert!(!output.contains("canary"), "{output}");
        }
    }
    let refused = output(variables(&[("EXAMPLE_URL", "canary")]));
    assert!(
        refused.starts_with("url (variable EXAMPLE_URL): takes a URL"),
        "{refused}"
    );
    let refused = output(in_file("token = \"x\""));
    assert!(
        refused.contains("set the variable EXAMPLE_TOKEN"),
        "{refused}"
    );
}

#[test]
fn variables_of_kubernetes_and_of_other_programs_are_ignored() {
    for (name, value) in [
        ("EXAMPLE_PORT", "tcp://10.0.0.1:1"),
        ("EXAMPLE_PORT_1_TCP", "tcp://10.0.0.1:1"),
        ("EXAMPLE_PORT_1_TCP_ADDR", "10.0.0.1"),
        ("EXAMPLE_PORT_1_TCP_PORT", "1"),
        ("EXAMPLE_PORT_1_TCP_PROTO", "tcp"),
        ("EXAMPLE_SERVICE_HOST", "10.0.0.1"),
        ("EXAMPLE_SERVICE_PORT", "1"),
        ("EXAMPLE_SERVICE_PORT_HTTP", "1"),
        ("EXAMPLE_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("EXAMPLE_METRICS_SERVICE_PORT_HTTP", "1"),
        ("EXAMPLE_METRICS_PORT", "tcp://10.0.0.1:1"),
        ("EXAMPLE_OTHER", "x"),
        ("EXAMPLE_TOOL_TOKEN", "x"),
        ("OTHER_URL", "x"),
    ] {
        let loaded = load::<Example>(variables(&[(name, value)]));
        assert!(loaded.is_ok(), "{name}: {loaded:?}");
    }
    let errors = load::<Example>(variables(&[("EXAMPLE_ULR", "x")])).unwrap_err();
    let expected = "variable EXAMPLE_ULR is unknown; did you mean EXAMPLE_URL?";
    assert_eq!(errors.0, [expected]);
}

#[test]
fn white_space_at_the_end_and_empty_variables_do_not_count() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let loaded = |text: &str, variable: &str| {
        std::fs::write(file.path(), format!("url = {text:?}")).unwrap();
        let inputs = Inputs {
            default_file: file.path().to_owned(),
            ..variables(&[
                ("EXAMPLE_TOKEN", variable),
                ("EXAMPLE_URL", ""),
                ("EXAMPLE_UNKNOWN", " "),
                ("EXAMPLE_CONFIG", ""),
            ])
        };
        load::<Example>(inputs).unwrap()
    };
    for end in ["", "\n", "\r\n\n", " \t"] {
        let Effective { settings, entries } =
            loaded(&format!("http://host{end}"), &format!("token{end}"));
        assert_eq!(settings.url.unwrap().expose(), "http://host");
        assert_eq!(settings.token, "token");
        assert_eq!(entries[0].source, Source::File(file.path().to_owned()));
    }
    let Effective { settings, entries } = loaded("none", "\n");
    assert_eq!(settings.token, "");
    assert_eq!(entries[1].source, Source::Default);
    let flags = vec![("url".to_owned(), "http://host\n".to_owned())];
    let Effective { settings, .. } = load::<Example>(Inputs {
        flags,
        ..Inputs::default()
    })
    .unwrap();
    assert_eq!(settings.url.unwrap().expose(), "http://host");
}

#[test]
fn urls_are_checked_and_show_no_secret() {
    for (text, shown) in [
        ("http://127.0.0.1:4317", "http://127.0.0.1:4317"),
        ("https://[::1]:1/path/", "https://[::1]:1/path/"),
        ("http://host", "http://host"),
        ("http://user:secret@host:1", "http://user:***@host:1"),
        ("http://secret@host/x?secret", "http://***@host/x?***"),
    ] {
        let url = Url::new(text).unwrap();
        assert_eq!((url.to_string().as_str(), url.expose()), (shown, text));
        assert_eq!(format!("{url:?}"), shown);
    }
    for text in [
        "",
        "host",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:65536",
    ] {
        assert!(Url::new(text).is_err(), "{text}");
    }
    for (host, expected) in [
        ("localhost", true),
        ("127.9.9.9", true),
        ("[::1]", true),
        ("::ffff:127.0.0.1", true),
        ("localhost.example", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(is_local(host), expected, "{host}");
    }
}

#[test]
fn ranges_include_their_limits() {
    let seconds = |text| {
        let range = Duration::from_secs(2)..=Duration::from_secs(60);
        duration(text, range, "2s to 60s")
    };
    assert!(seconds("2s").is_ok() && seconds("1m").is_ok());
    assert_eq!(
        seconds("61s").unwrap_err(),
        "takes a duration from 2s to 60s"
    );
    assert_eq!(number("7", 0..=7), Ok(7));
    assert_eq!(
        number("8", 0..=7).unwrap_err(),
        "takes a number from 0 to 7"
    );
}

#[test]
fn white_space_around_a_value_does_not_count_and_an_empty_variable_is_unset() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\n secret \r\n\n").unwrap();
    assert_eq!(secret_file(file.path()).unwrap().as_str(), "secret");

    for (url, token, expected) in [
        (
            " http://host\n",
            "\tcanary\r\n",
            (Some("http://host"), "canary"),
        ),
        ("", " \n", (None, "")),
    ] {
        let given = variables(&[
            ("EXAMPLE_URL", url),
            ("EXAMPLE_TOKEN", token),
            ("EXAMPLE_ULR", ""),
        ]);
        let settings = load::<Example>(given).unwrap().settings;
        let url = settings.url.as_ref().map(Url::expose);
        assert_eq!((url, settings.token.as_str()), expected);
    }
}
