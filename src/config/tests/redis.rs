//! Tests of the URL of Redis: what each form means, which are refused, and that no password is shown.

use std::path::Path;

use super::Case;
use crate::cache::l2::{Address, Node, Nodes};
use crate::config::redis::parse;

const STORE: &str = "postgres://kw@127.0.0.1/keyward";

fn read(url: &str) -> Address {
    parse(url, None).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn single(host: &str, port: u16) -> Nodes {
    Nodes::Single((host.to_owned(), port))
}

fn nodes(list: &[(&str, u16)]) -> Vec<Node> {
    let owned = |(host, port): &(&str, u16)| ((*host).to_owned(), *port);
    list.iter().map(owned).collect()
}

fn sentinel(list: &[(&str, u16)], service: &str) -> Nodes {
    Nodes::Sentinel(nodes(list), service.to_owned())
}

fn cluster(list: &[(&str, u16)]) -> Nodes {
    Nodes::Cluster(nodes(list))
}

fn with_store(url: &str) -> Case {
    Case::new().flag("store", STORE).flag("redis", url)
}

#[test]
fn each_form_names_its_servers() {
    let socket = Nodes::Socket("/run/redis.sock".into());
    for (url, nodes, database) in [
        ("redis://h", single("h", 6379), 0),
        ("redis://h/", single("h", 6379), 0),
        ("redis://h:7/15", single("h", 7), 15),
        ("redis://10.0.0.1/65535", single("10.0.0.1", 6379), 65535),
        ("rediss://[2001:db8::1]:7", single("2001:db8::1", 7), 0),
        ("rediss://[::1]/1", single("::1", 6379), 1),
        ("redis+unix:///run/redis.sock", socket.clone(), 0),
        ("redis+unix:///run/redis.sock?db=3", socket, 3),
        (
            "redis+unix:///run/a%20b%40c",
            Nodes::Socket("/run/a b@c".into()),
            0,
        ),
        (
            "redis+sentinel://h/main",
            sentinel(&[("h", 26379)], "main"),
            0,
        ),
        (
            "rediss+sentinel://h,[::1]:7,i/my-main.1_x/2",
            sentinel(&[("h", 26379), ("::1", 7), ("i", 26379)], "my-main.1_x"),
            2,
        ),
        ("redis+cluster://h", cluster(&[("h", 6379)]), 0),
        (
            "rediss+cluster://h,i:7/",
            cluster(&[("h", 6379), ("i", 7)]),
            0,
        ),
    ] {
        let address = read(url);
        let expected = Address {
            nodes,
            user: None,
            password: None,
            password_file: None,
            database,
            tls: url.starts_with("rediss"),
            ca: None,
            shown: url.to_owned(),
        };
        assert_eq!(address, expected, "{url}");
        assert_eq!(address.to_string(), url);
    }
}

#[test]
fn each_form_takes_a_login() {
    for (url, user, password, shown) in [
        ("redis://:hunter2@h", None, "hunter2", "redis://:***@h"),
        (
            "rediss://kw:hunter2@h:7/1",
            Some("kw"),
            "hunter2",
            "rediss://kw:***@h:7/1",
        ),
        (
            "redis://k%40w:%68unter2%2F%C3%BC%25:@h",
            Some("k@w"),
            "hunter2/\u{fc}%:",
            "redis://k%40w:***@h",
        ),
        (
            "redis+unix:///s?user=kw&password=hunter2%2B&db=1",
            Some("kw"),
            "hunter2+",
            "redis+unix:///s?user=kw&password=***&db=1",
        ),
        (
            "redis+unix:///s?password=hunter2",
            None,
            "hunter2",
            "redis+unix:///s?password=***",
        ),
        (
            "redis+sentinel://:hunter2@h,i/main",
            None,
            "hunter2",
            "redis+sentinel://:***@h,i/main",
        ),
        (
            "redis+cluster://kw:hunter2@h,i",
            Some("kw"),
            "hunter2",
            "redis+cluster://kw:***@h,i",
        ),
    ] {
        let address = read(url);
        assert_eq!(address.user.as_deref(), user, "{url}");
        assert_eq!(address.password.as_ref().unwrap().expose(), password);
        assert_eq!(address.to_string(), shown);
        assert!(!format!("{address:?}").contains("hunter2"));
    }
}

#[test]
fn tls_takes_a_private_authority() {
    for (url, ca) in [
        ("rediss://h?ca=/ca.pem", "/ca.pem"),
        ("rediss://:hunter2@h/1?ca=/a%20b/ca.pem", "/a b/ca.pem"),
        ("rediss+sentinel://h/main?ca=/ca.pem", "/ca.pem"),
        ("rediss+cluster://h,i/?ca=/ca.pem", "/ca.pem"),
    ] {
        assert_eq!(read(url).ca.as_deref(), Some(Path::new(ca)), "{url}");
    }
}

#[test]
fn at_most_sixteen_hosts_are_accepted() {
    let url = |count| format!("redis+cluster://{}", vec!["h"; count].join(","));
    assert_eq!(read(&url(16)).nodes, cluster(&[("h", 6379); 16]));
    let error = parse(&url(17), None).unwrap_err();
    assert!(error.contains("names more than 16 hosts"), "{error}");
}

#[test]
fn an_error_names_the_fault_and_no_part_of_the_url() {
    const SCHEME: &str = "has an unknown scheme";
    const ENCODED: &str = "percent-encoded; in a password write @ as %40";
    const PORT: &str = "port that is not a number from 1 to 65535";
    const DATABASE: &str = "database that is not a number from 0 to 65535";
    const SERVICE: &str = "names no service: ";
    const NO_HOST: &str = "names no host";
    const PARAMETER: &str = "has a parameter, which only TLS and sockets have";
    const UNKNOWN: &str = "has an unknown parameter; known are ";
    for (url, reason) in [
        ("", SCHEME),
        ("hunter2", SCHEME),
        ("redis:hunter2@h", SCHEME),
        ("Redis://:hunter2@h", SCHEME),
        ("x redis://:hunter2@h", SCHEME),
        ("rediss+unix:///s?password=hunter2", SCHEME),
        ("unix:///s?pass=hunter2", SCHEME),
        // What can be read in two ways.
        ("redis://:hunter2@3@h", ENCODED),
        ("redis://:hunter2#3@h", ENCODED),
        ("redis://:hunter2\\3@h", ENCODED),
        ("redis://:hunter2 3@h", ENCODED),
        ("redis://:hunter2\n@h", ENCODED),
        ("redis://:hunter2\u{7f}@h", ENCODED),
        ("redis://:h\u{fc}nter2@h", ENCODED),
        ("redis://:hunter2,3@h", ENCODED),
        ("redis://h1:1,:hunter2@h", ENCODED),
        ("redis+cluster://h, i", ENCODED),
        ("redis://:hunter2/3@h", "has a / or a ? before the @"),
        ("redis://:hunter2?3@h", "has a / or a ? before the @"),
        (
            "redis+unix:///s?password=hunter2@",
            "has a / or a ? before the @",
        ),
        ("redis+unix:///s?password=hunter2+", "write %2B, or %20"),
        // Who logs in.
        ("redis://hunter2@h", "names a user without a password"),
        ("redis://hunter2:@h", "without a user as :PASSWORD@HOST"),
        ("redis+unix:///s?user=kw", "names a user without a password"),
        ("redis://@h", "has nothing before the @"),
        ("redis://:@h", "has nothing before the @"),
        ("redis://:hunter2%@h", "password that is not percent-"),
        ("redis://:hunter2%4@h", "password that is not percent-"),
        ("redis://:hunter2%4g@h", "password that is not percent-"),
        ("redis://:hunter2%ff@h", "password that is not percent-"),
        ("redis://%zz:hunter2@h", "user that is not percent-"),
        // Where it is.
        ("redis://", NO_HOST),
        ("redis:///1", NO_HOST),
        ("redis://:hunter2@", NO_HOST),
        ("redis://:hunter2@:7", NO_HOST),
        ("redis+cluster://h,", NO_HOST),
        ("redis+cluster://h,,i", NO_HOST),
        ("redis+sentinel:///main", NO_HOST),
        ("redis://:hunter2@h,i", "names several hosts"),
        ("redis://h:0", PORT),
        ("redis://h:", PORT),
        ("redis://h:+5", PORT),
        ("redis://h:65536", PORT),
        ("redis://kw:hunter2", PORT),
        ("redis://::1", NO_HOST),
        ("redis://fe80::1", PORT),
        ("redis+cluster://h,i:hunter2", PORT),
        ("redis://[h]", "not an IPv6 address"),
        ("redis://[::1", "not an IPv6 address"),
        ("redis://[::1]7", "not an IPv6 address"),
        ("redis://h%31", "neither a name nor an address"),
        ("redis://h;i", "neither a name nor an address"),
        ("redis+unix://", "names no socket"),
        ("redis+unix:///", "names no socket"),
        ("redis+unix:///run/", "names no socket"),
        (
            "redis+unix:///run%00",
            "socket that is not the absolute path",
        ),
        (
            "redis+unix://kw:hunter2@/s",
            "something before the path of the socket",
        ),
        (
            "redis+unix://run/s",
            "something before the path of the socket",
        ),
        // What is asked for there.
        ("redis://h/hunter2", DATABASE),
        ("redis://h/-1", DATABASE),
        ("redis://h/+1", DATABASE),
        ("redis://h/65536", DATABASE),
        ("redis://h/1/", DATABASE),
        ("redis://h//", DATABASE),
        ("redis+unix:///s?db=x", DATABASE),
        ("redis+sentinel://h/main/", DATABASE),
        ("redis+sentinel://h/main/x", DATABASE),
        ("redis+sentinel://h", SERVICE),
        ("redis+sentinel://h/", SERVICE),
        ("redis+sentinel://h//1", SERVICE),
        ("redis+sentinel://h/m%61in", SERVICE),
        ("redis+cluster://h/0", "but a cluster has none"),
        // Parameters.
        ("redis://h?", PARAMETER),
        ("redis://h?ca=/ca.pem", PARAMETER),
        ("redis://h?password=hunter2", PARAMETER),
        ("redis+cluster://h/?db=1", PARAMETER),
        ("rediss://h?", UNKNOWN),
        ("rediss://h?password=hunter2", UNKNOWN),
        ("rediss://h/#insecure", ENCODED),
        ("redis+unix:///s?ca=/ca.pem", UNKNOWN),
        ("redis+unix:///s?pass=hunter2", UNKNOWN),
        ("redis+unix:///s?password=x&hunter2", UNKNOWN),
        ("rediss://h?ca", "parameter ca without a value"),
        ("rediss://h?ca=", "parameter ca without a value"),
        ("rediss://h?ca=/a&ca=/b", "gives the parameter ca twice"),
        ("rediss://h?ca=ca.pem", "ca that is not the absolute path"),
        ("rediss://h?ca=/%", "ca that is not percent-encoded UTF-8"),
    ] {
        let error = parse(url, None).unwrap_err();
        assert!(error.contains(reason), "{url}: {error}");
        assert!(error.starts_with("the URL "), "{error}");
        assert!(error.contains("; takes redis://USER"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let errors = with_store(url).errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with(", or none"), "{errors:?}");
        assert!(!errors[0].contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn the_embedded_store_refuses_redis() {
    let case = |url: &str| Case::new().flag("redis", url);
    for url in ["redis://h", "redis+unix:///s?password=hunter2"] {
        let error = case(url).flag("insecure", "true").error();
        let expected = "(flag --redis): has no use with the embedded store, which only one \
                        process serves: remove it, or use a Postgres store";
        assert!(error.ends_with(expected), "{error}");
    }
    assert_eq!(case("redis://:hunter2@h").errors().len(), 2);
    for none in ["none", "off"] {
        assert_eq!(case(none).load().unwrap().settings.redis, None);
        assert_eq!(with_store(none).entry("redis").0, "none");
    }
}

#[test]
fn a_password_for_another_host_needs_tls() {
    for url in [
        "redis://:hunter2@h",
        "redis://kw:hunter2@10.0.0.1",
        "redis://:hunter2@0.0.0.0",
        "redis://:hunter2@localhost.example",
        "redis://:hunter2@127.1",
        "redis://:hunter2@[2001:db8::1]",
        "redis+sentinel://:hunter2@localhost,h/main",
        "redis+cluster://:hunter2@h,localhost",
    ] {
        let error = with_store(url).error();
        assert!(error.starts_with("redis = 'redis"), "{error}");
        for expected in [
            "(flag --redis): leads to another host without TLS",
            "write rediss in place of redis",
            "?ca=FILE",
            "insecure = true",
        ] {
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let case = with_store(url).flag("insecure", "true");
        assert_eq!(case.load().unwrap().settings.redis, Some(read(url)));
        let over_tls = url.replacen("redis", "rediss", 1);
        assert!(with_store(&over_tls).load().is_ok(), "{over_tls}");
    }
    for url in [
        "redis://h",
        "redis+cluster://h,i",
        "redis+sentinel://h/main",
        "redis://:hunter2@localhost",
        "redis://:hunter2@LocalHost",
        "redis://:hunter2@127.9.9.9",
        "redis://:hunter2@[::1]",
        "redis://:hunter2@[::ffff:127.0.0.1]",
        "redis+cluster://:hunter2@127.0.0.1:1,127.0.0.1:2",
        "redis+unix:///run/redis.sock?password=hunter2",
    ] {
        assert!(with_store(url).load().is_ok(), "{url}");
    }
}

#[test]
fn a_password_file_takes_the_place_of_the_password() {
    let with = |url: &str| with_store(url).variable("KEYWARD_REDIS_PASSWORD_FILE", "/run/secret ");
    for (url, user) in [
        ("redis://localhost", None),
        ("redis://kw@localhost/1", Some("kw")),
        ("redis+unix:///s?user=kw", Some("kw")),
        ("rediss+cluster://kw@h,i", Some("kw")),
    ] {
        let redis = with(url).load().unwrap().settings.redis.unwrap();
        assert_eq!(redis.user.as_deref(), user, "{url}");
        assert_eq!(
            redis.password_file.as_deref(),
            Some(Path::new("/run/secret"))
        );
        assert_eq!(redis.to_string(), url);
    }
    for (url, reason) in [
        (
            "redis://kw:hunter2@localhost",
            "has a password, and redis_password_file is set, too",
        ),
        (
            "redis+unix:///s?password=hunter2",
            "has a password, and redis_password_file",
        ),
        ("redis://h", "leads to another host without TLS"),
        (
            "none",
            "redis_password_file = '/run/secret' (variable KEYWARD_REDIS_PASSWORD_FILE): has no use without `redis`",
        ),
    ] {
        let error = with(url).error();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn settings_in_force_show_no_password() {
    for (url, shown) in [
        ("rediss://kw:hunter2@h/1", "rediss://kw:***@h/1"),
        (
            "redis+unix:///s?user=kw&password=hunter2",
            "redis+unix:///s?user=kw&password=***",
        ),
    ] {
        let case = with_store(url);
        let effective = case.load().unwrap();
        assert_eq!(case.entry("redis").0, shown);
        assert!(!format!("{effective:?}").contains("hunter2"));
        let address = effective.settings.redis.unwrap();
        assert_eq!(address.password.unwrap().expose(), "hunter2");
    }
}
