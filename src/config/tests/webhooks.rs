//! The tables of webhooks.

use super::*;
use keyward_store::EventKind;

const WHOLE: &str = r#"
    [[webhooks]]
    name = "a"
    url = "https://example.com/hidden?token=hidden"
    secret_file = "/a"

    [[webhooks]]
    name = "b.2"
    url = "http://[::1]:80/"
    secret_file = "/b"
    events = ["key.revoked", "key.refused"]
"#;

#[test]
fn webhooks_are_read_from_tables() {
    let case = Case::new().file(WHOLE);
    let settings = case.load().unwrap().settings;
    let [first, second] = &settings.webhooks[..] else {
        panic!("{:?}", settings.webhooks)
    };
    assert_eq!(first.events, EventKind::ALL);
    assert_eq!(second.events, [EventKind::Revoked, EventKind::Refused]);
    assert_eq!(second.secret_file, Path::new("/b"));
    let shown = case.entry("webhooks").0;
    assert!(
        shown.starts_with(r#"[{name = "a", url = "https://example.com", secret_file = "/a","#),
        "{shown}"
    );
    assert!(shown.contains(r#"url = "http://[::1]:80","#), "{shown}");
    let debug = format!("{:?}", settings.webhooks);
    assert!(!debug.contains("hidden"), "{debug}");
    let again = Case::new().flag("webhooks", &shown);
    assert_eq!(again.entry("webhooks").0, shown);
    let again = again.load().unwrap().settings.webhooks;
    assert_eq!(again[1].events, second.events);
    assert_eq!(Case::new().entry("webhooks").0, "none");
    let inline = r#"[{name = "a", url = "https://a", secret_file = "/a", events = "key.issued"}]"#;
    let case = Case::new().variable("KEYWARD_WEBHOOKS", inline);
    let settings = case.load().unwrap().settings;
    assert_eq!(settings.webhooks[0].events, [EventKind::Issued]);
}

#[test]
fn wrong_webhooks_are_refused() {
    let of = |fields: &str| format!("[{{{fields}}}]");
    let whole = r#"name = "a", url = "https://hidden.example", secret_file = "/a""#;
    for (text, reason) in [
        ("nonsense".to_owned(), "takes an array of tables"),
        (of(""), "table 1: name is missing"),
        (
            of(r#"name = "a", url = "https://a""#),
            "table 1: secret_file is missing",
        ),
        (
            of(r#"name = "a", secret_file = "/a""#),
            "table 1: url is missing",
        ),
        (of(r#"name = "a b""#), "table 1: name takes 1 to 64"),
        (of(r#"url = "http://hidden.example""#), "write https"),
        (
            of(r#"url = "https://me:hidden@example.com""#),
            "without a user",
        ),
        (of(r#"url = "ftp://hidden.example""#), "takes a URL"),
        (
            of(r#"events = ["key.hidden"]"#),
            "takes some of key.issued, key.revoked",
        ),
        (
            of(r#"events = []"#),
            "takes some of key.issued, key.revoked",
        ),
        (of(r#"secret = "hidden""#), "is no setting of one table"),
        (
            format!("[{{{whole}}}, {{{whole}}}]"),
            "table 2: the name is in another table",
        ),
        (
            format!("[{}]", format!("{{{whole}}},").repeat(17)),
            "at most 16",
        ),
    ] {
        let errors = Case::new().variable("KEYWARD_WEBHOOKS", &text).errors();
        let [error] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert!(error.contains(reason), "{text}: {error}");
        assert!(!error.contains("hidden"), "{text}: {error}");
    }
    for (name, value) in [
        ("webhook_timeout", "0s"),
        ("webhook_timeout", "61s"),
        ("expiry_notice", "1s"),
    ] {
        let errors = Case::new().flag(name, value).errors();
        assert!(errors[0].contains("takes a duration from"), "{errors:?}");
    }
}
