//! Tests of Postgres URLs: which are refused, what the driver reads, and that no password is shown.

use sqlx::postgres::PgSslMode;

use super::Case;
use crate::config::{PostgresUrls, Store};

const LOCAL: &str = "postgres://kw:hunter2@127.0.0.1:5433/keyward";

#[track_caller]
fn refusal(text: &str) -> String {
    let error = PostgresUrls::parse(text, false).unwrap_err();
    assert!(error.starts_with("takes postgres://USER:PASSWORD@HOST/DATABASE, "));
    error
}

#[test]
fn urls_keep_their_order_and_passwords() {
    let second = "postgresql://kw:p%40ss@[::1]/keyward?sslmode=require";
    let urls = PostgresUrls::parse(&format!("{LOCAL} , {second}"), false).unwrap();
    let hosts = urls.hosts().iter().map(|host| host.get_host());
    assert_eq!(hosts.collect::<Vec<_>>(), ["127.0.0.1", "[::1]"]);
    let debug = format!("{:?}", urls.hosts());
    assert!(debug.contains("hunter2") && debug.contains("p@ss"));
    let shown = "postgres://kw:***@127.0.0.1:5433/keyward,\
                 postgresql://kw:***@[::1]/keyward?sslmode=require";
    assert_eq!(urls.to_string(), shown);
    assert_eq!(format!("{urls:?}"), shown);
}

#[test]
fn at_most_eight_urls_are_accepted() {
    let text = |count| vec![LOCAL; count].join(",");
    assert_eq!(
        PostgresUrls::parse(&text(8), false).unwrap().hosts().len(),
        8
    );
    assert!(refusal(&text(9)).ends_with(", at most 8"));
}

#[test]
fn an_error_names_the_fault_and_no_part_of_the_url() {
    for (url, reason) in [
        ("", "does not begin with postgres://"),
        ("hunter2", "does not begin with postgres://"),
        (
            "postgress://kw:hunter2@h/db",
            "does not begin with postgres://",
        ),
        ("postgres://", "names no database"),
        ("postgres://kw:hunter2@h", "names no database"),
        ("postgres://kw:hunter2@h/", "names no database"),
        ("postgres://kw:hunter2@h?user=kw", "names no database"),
        ("postgres://kw:hunter2@h//db", "names no database"),
        ("postgres://h/db", "names no user"),
        ("postgres://:hunter2@h/db", "names no user"),
        ("postgres:///db?user=kw", "names no host"),
        ("postgres://kw:hunter2@/db", "has no host"),
        ("postgres://kw:hunter2@:5432/db", "has no host"),
        (
            "postgres://kw@/db?host=/run",
            "has no host; with host=DIRECTORY",
        ),
        (
            "postgres:///db?user=kw&host=h",
            "parameter host that is not the absolute directory",
        ),
        (
            "postgres://kw@h,postgres://kw@h/db",
            "URL 1 names no database",
        ),
        (
            "postgres://kw:hunter2@h,i/db",
            "write one URL for each host",
        ),
        (
            "postgres://kw:hunter2@h:1,i:2/db?sslmode=require",
            "write one URL for each host",
        ),
        ("postgres://kw@h/db,postgres://i/db", "URL 2 names no user"),
        ("postgres://kw@h/db,", "URL 2 does not begin with"),
        ("postgres://kw:hunter2,3@h/db", "a comma as %2C"),
        (
            "postgres://kw:hunter2@3@h/db",
            "percent-encoded; in a password write @ as %40",
        ),
        (
            "postgres://kw:hunter2/3@h/db",
            "has a / or a ? before the @",
        ),
        (
            "postgres://kw:hunter2?3@h/db",
            "has a / or a ? before the @",
        ),
        ("postgres://kw:hunter2#3@h/db", "must be percent-encoded"),
        ("postgres://kw:hunter2\\3@h/db", "must be percent-encoded"),
        ("postgres://kw:hunter2 3@h/db", "must be percent-encoded"),
        ("postgres://kw:hunter2\n@h/db", "must be percent-encoded"),
        ("postgres://kw:h\u{fc}nter2@h/db", "must be percent-encoded"),
        ("postgres://kw:hunter2/db", "port that is not a number"),
        ("postgres://kw@h:0/db", "port that is not a number"),
        ("postgres://kw@h:/db", "port that is not a number"),
        ("postgres://kw@h:+5/db", "port that is not a number"),
        ("postgres://kw@h:65536/db", "port that is not a number"),
        ("postgres://kw@h/db?port=x", "port that is not a number"),
        ("postgres://kw@[::1/db", "invalid IPv6 address"),
        ("postgres://kw@[h]/db", "invalid IPv6 address"),
        ("postgres://kw@h%31/db", "neither a name nor an address"),
        (
            "postgres://kw@h/db?sslmode=verify_full",
            "an sslmode other than disable, allow, prefer, ",
        ),
        (
            "postgres://kw@h/db?sslmode=VERIFY-FULL",
            "an sslmode other than disable, allow, prefer, ",
        ),
        (
            "postgres://kw@h/db?sslmode",
            "parameter sslmode without a value",
        ),
        (
            "postgres://kw@h/db?password=",
            "parameter password without a value",
        ),
        ("postgres://kw@h/db?", "an unknown parameter"),
        (
            "postgres://kw@h/db?hostaddr=10.0.0.1",
            "the parameter hostaddr, which is not supported: write the address as the host",
        ),
        (
            "postgres://kw:hunter2@h/db?sslmode=require&channel_binding=require",
            "the parameter channel_binding, which is not supported: remove it",
        ),
        (
            "postgres://kw@h/db?target_session_attrs=read-write",
            "the parameter target_session_attrs",
        ),
        (
            "postgres://kw@h/db?connect_timeout=5",
            "the parameter connect_timeout",
        ),
        (
            "postgres://kw@h/db?pass%77ord=hunter2",
            "an unknown parameter",
        ),
        (
            "postgres://kw@h/db?password=x&hunter2",
            "in a password & is written as %26",
        ),
        (
            "postgres://kw@h/db?sslmode=verify-full&sslmode=disable",
            "parameter sslmode twice",
        ),
        (
            "postgres://kw@127.0.0.1/db?host=/run",
            "gives the host twice",
        ),
        ("postgres://kw@127.0.0.1/db?host=h", "gives the host twice"),
        ("postgres://kw:1@h/db?user=x", "gives the user twice"),
        (
            "postgres://kw:hunter2@h/db?password=hunter2",
            "gives the password twice",
        ),
        ("postgres://kw@h:1/db?port=2", "gives the port twice"),
    ] {
        let error = refusal(url);
        assert!(error.contains(reason), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn the_driver_gets_every_part() {
    let socket = Some("/run/postgresql");
    for (url, host, port, directory, mode) in [
        (LOCAL, "127.0.0.1", 5433, None, PgSslMode::Prefer),
        (
            "postgres://kw@db.example/keyward?sslmode=verify-full&sslrootcert=/ca.pem&sslcert=/c&sslkey=/k",
            "db.example",
            5432,
            None,
            PgSslMode::VerifyFull,
        ),
        (
            "postgresql://kw@[2001:db8::1]:1/keyward?sslmode=verify-ca",
            "[2001:db8::1]",
            1,
            None,
            PgSslMode::VerifyCa,
        ),
        (
            "postgres://h:7/keyward?user=kw&password=a%26b&sslmode=disable",
            "h",
            7,
            None,
            PgSslMode::Disable,
        ),
        (
            "postgres://kw@%2Frun%2Fpostgresql/keyward?sslmode=allow",
            "",
            5432,
            socket,
            PgSslMode::Allow,
        ),
        (
            "postgres:///keyward?host=/run/postgresql&port=7&user=kw&application_name=x&options=-c%20a=b",
            "",
            7,
            socket,
            PgSslMode::Prefer,
        ),
        (
            "postgres:///keyward?user=kw&host=%2Frun%2Fpostgresql",
            "",
            5432,
            socket,
            PgSslMode::Prefer,
        ),
    ] {
        let urls = PostgresUrls::parse(url, false).unwrap();
        let [read] = urls.hosts() else {
            panic!("{urls}")
        };
        assert_eq!(
            (read.get_username(), read.get_database()),
            ("kw", Some("keyward")),
            "{url}"
        );
        assert_eq!(read.get_port(), port, "{url}");
        assert_eq!(
            read.get_socket().and_then(|path| path.to_str()),
            directory,
            "{url}"
        );
        assert!(directory.is_some() || read.get_host() == host, "{url}");
        assert_eq!(
            format!("{:?}", read.get_ssl_mode()),
            format!("{mode:?}"),
            "{url}"
        );
    }
}

#[test]
fn another_host_needs_verify_full() {
    let case = |url: &str| Case::new().flag("store", url);
    for url in [
        "postgres://kw:hunter2@db.example/keyward",
        "postgres://kw:hunter2@db.example/keyward?sslmode=disable",
        "postgres://kw:hunter2@db.example/keyward?sslmode=require",
        "postgres://kw:hunter2@db.example/keyward?sslmode=verify-ca&sslrootcert=/ca.pem",
        "postgres://kw:hunter2@10.0.0.1/keyward",
        "postgres://kw:hunter2@0.0.0.0/keyward",
        "postgres://kw:hunter2@localhost.example/keyward",
        "postgres://kw:hunter2@127.0.0.1.example/keyward",
        "postgres://kw:hunter2@[2001:db8::1]/keyward",
        "postgres://db.example/keyward?user=kw&password=hunter2",
    ] {
        let error = case(url).error();
        assert!(error.starts_with("store = 'postgres://"), "{error}");
        for expected in [
            "(flag --store): the URL leads to another host",
            "?sslmode=verify-full",
            "sslrootcert=FILE",
            "insecure = true",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(case(url).flag("insecure", "true").load().is_ok());
        let verified = format!("postgres://kw@db.example/keyward?sslmode=verify-full,{url}");
        assert!(case(&verified).errors()[0].contains("): URL 2 leads to another host"));
    }
    for url in [
        LOCAL,
        "postgres://kw@localhost/keyward",
        "postgres://kw@LocalHost/keyward?sslmode=disable",
        "postgres://kw@127.9.9.9/keyward",
        "postgres://kw@[::1]/keyward",
        "postgres://kw@[::ffff:127.0.0.1]/keyward",
        "postgres:///keyward?host=/run/postgresql&user=kw",
        "postgres://kw@%2Frun%2Fpostgresql/keyward",
        "postgres://kw@db.example/keyward?sslmode=verify-full",
    ] {
        let settings = case(url).load().unwrap().settings;
        assert!(matches!(settings.store, Store::Postgres(_)), "{url}");
    }
}

#[test]
fn a_password_file_takes_the_place_of_the_password() {
    let with = |url: &str| {
        let case = Case::new().flag("store", url);
        case.variable("KEYWARD_STORE_PASSWORD_FILE", "/run/secret\n")
    };
    let settings = with("postgres://kw@localhost/db").load().unwrap().settings;
    let file = settings.store_password_file.unwrap();
    assert_eq!(file.to_str(), Some("/run/secret"));
    for (url, reason) in [
        (LOCAL, "has a password, and store_password_file is set, too"),
        (
            "postgres://kw@localhost/db?password=hunter2",
            "has a password, and",
        ),
        (
            "sqlite:",
            "store_password_file = '/run/secret' (variable KEYWARD_STORE_PASSWORD_FILE): has no use with",
        ),
    ] {
        let error = with(url).error();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn settings_in_force_show_no_password() {
    let text = format!("{LOCAL},postgres://localhost/kw?user=kw&password=hunter2&sslmode=disable");
    let case = Case::new().flag("store", &text);
    let effective = case.load().unwrap();
    assert_eq!(
        case.entry("store").0,
        "postgres://kw:***@127.0.0.1:5433/keyward,\
         postgres://localhost/kw?user=kw&password=***&sslmode=disable"
    );
    assert!(!format!("{effective:?}").contains("hunter2"));
}
