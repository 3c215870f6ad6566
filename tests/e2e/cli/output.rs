//! The output of each verb, in both formats.

use serde_json::Value;

use super::harness::{Service, holds_secret, run, text};

#[test]
fn every_verb_prints_json_with_wire_names() {
    let service = Service::start();
    let created = service.json(
        "IssueResponse",
        &[
            "issue",
            "--account",
            "42",
            "--name",
            "main",
            "--scope",
            "b",
            "--scope",
            "a",
            "--metadata",
            "team=x",
            "--cidr",
            "10.0.0.0/8",
            "--recoverable",
            "--ttl",
            "30d",
        ],
        "",
    );
    let (id, secret) = (text(&created["key"]["key_id"]), text(&created["api_key"]));
    assert_eq!(created["created"], true);
    assert_eq!(created["key"]["scopes"], serde_json::json!(["a", "b"]));
    assert_eq!(created["key"]["metadata"]["team"], "x");
    assert_eq!(created["key"]["allowed_cidrs"][0], "10.0.0.0/8");
    assert_eq!(created["key"]["state"], "ACTIVE");
    assert_eq!(created["key"]["replaced_by"], Value::Null);

    let again = service.json(
        "IssueResponse",
        &["issue", "--account", "42", "--name", "main"],
        "",
    );
    assert_eq!(
        (&again["created"], &again["api_key"]),
        (&false.into(), &created["api_key"])
    );
    let by_id = service.json("GetResponse", &["get", &id], "");
    let by_text = service.json(
        "GetResponse",
        &["get", "--key", "-"],
        &format!("{secret}\n"),
    );
    assert_eq!((&by_id, &by_id["key"]), (&by_text, &created["key"]));

    let verify = ["verify", "-", "--scope", "a", "--client-ip", "10.1.2.3"];
    let valid = service.json("VerifyResponse", &verify, &secret);
    assert_eq!(
        (&valid["verdict"], &valid["account_id"]),
        (&"VALID".into(), &"42".into())
    );
    assert_eq!(valid["expire_time"], created["key"]["expire_time"]);
    let strong = service.json(
        "VerifyResponse",
        &[&verify[..], &["--strong"]].concat(),
        &secret,
    );
    assert_eq!(strong, valid);

    let update = [
        "update",
        &id,
        "--clear-scopes",
        "--never-expires",
        "--disable",
    ];
    let updated = service.json("UpdateResponse", &update, "");
    assert_eq!(
        (&updated["key"]["state"], &updated["key"]["scopes"]),
        (&"DISABLED".into(), &serde_json::json!([]))
    );
    assert_eq!(
        (&updated["confirmed_instances"], &updated["revision"]),
        (&1.into(), &1.into())
    );

    let revoke = ["revoke", &id, "--replace", "--reason", "leaked"];
    let replaced = service.json("RevokeResponse", &revoke, "");
    assert_eq!(replaced["revoked"][0]["revoke_reason"], "leaked");
    assert_eq!(
        replaced["revoked"][0]["replaced_by"],
        replaced["replacement"]["key_id"]
    );
    assert_eq!(
        (&replaced["revoked_count"], &replaced["confirmed_instances"]),
        (&1.into(), &1.into())
    );
    let repeated = service.json("RevokeResponse", &revoke, "");
    assert_eq!(repeated["replacement"], replaced["replacement"]);

    let listed = service.json("ListResponse", &["list", "--account", "42"], "");
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
    let page = [
        "list",
        "--account",
        "42",
        "--all",
        "--page-size",
        "1",
        "--page-token",
    ];
    let first = service.json("ListResponse", &[&page[..], &[""]].concat(), "");
    let token = text(&first["next_page_token"]);
    let second = service.json("ListResponse", &[&page[..], &[&token]].concat(), "");
    assert_eq!(
        (&first["keys"][0]["key_id"], &second["keys"][0]),
        (&id.into(), &listed["keys"][0])
    );

    let token = service.json(
        "CreateTokenResponse",
        &["token", "create", "bot", "--role", "issuer"],
        "",
    );
    assert_eq!(
        token["caller_token"]["roles"],
        serde_json::json!(["ISSUER"])
    );
    assert!(text(&token["token"]).starts_with("kwt_"));
    let tokens = service.json("ListTokensResponse", &["token", "list"], "");
    assert_eq!(tokens["caller_tokens"][1], token["caller_token"]);
    let dead = ["token", "revoke", &text(&token["caller_token"]["token_id"])];
    assert!(
        service.json("RevokeTokenResponse", &dead, "")["caller_token"]["revoke_time"].is_string()
    );
}

/// The value in a line `name: value`. The values of one output stand below each other.
fn value<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let named = |line: &'t str| line.strip_prefix(name)?.strip_prefix(':');
    text.lines().find_map(named).map(str::trim_start)
}

#[test]
fn every_verb_prints_lines_for_people() {
    let service = Service::start();
    let new = service.call(&["issue", "--account", "42"], "").done();
    let (facts, secret) = new.split_once("\n\n").unwrap();
    assert!(facts.starts_with("created: true\nkey_id: "), "{new}");
    assert!(
        secret.starts_with("kw_") && secret.lines().count() == 1,
        "{new}"
    );
    let id = value(facts, "key_id").unwrap();
    let again = service.call(&["issue", "--account", "42"], "");
    let advice = format!("keyward revoke {id} --replace");
    assert!(again.err.contains(&advice), "{}", again.err);
    let again = again.done();
    assert!(again.starts_with("created: false"), "{again}");
    assert!(!holds_secret(&again));

    let shown = service.call(&["get", id], "").done();
    assert_eq!(value(&shown, "state"), Some("ACTIVE"), "{shown}");
    let list = service.call(&["list", "--account", "42"], "").done();
    assert!(
        list.starts_with("KEY_ID ") && list.lines().count() == 2,
        "{list}"
    );
    let valid = service.call(&["verify", "-"], secret).done();
    let facts = ["verdict", "account_id"].map(|name| value(&valid, name));
    assert_eq!(facts, [Some("VALID"), Some("42")], "{valid}");
    let updated = service
        .call(&["update", id, "--metadata", "team=x"], "")
        .done();
    assert!(
        updated.contains("team=x") && updated.contains("confirmed_instances:  1"),
        "{updated}"
    );
    let revoked = service.call(&["revoke", id, "--replace"], "").done();
    assert!(
        revoked.contains("revoked_count: 1\n") && revoked.contains("\nreplacement\n"),
        "{revoked}"
    );
    assert!(holds_secret(revoked.lines().last().unwrap()));
    let dead = service.call(&["verify", "-"], secret);
    let facts = ["verdict", "key_id"].map(|name| value(&dead.out, name));
    assert_eq!((dead.code, dead.err.as_str()), (2, ""));
    assert_eq!(
        (facts, dead.out.lines().count()),
        ([Some("REVOKED"), Some(id)], 2)
    );
    let none = service.call(&["revoke", "--account", "nobody"], "").done();
    assert!(none.starts_with("revoked_count: 0\n"), "{none}");

    let token = service
        .call(&["token", "create", "bot", "--role", "reader"], "")
        .done();
    assert_eq!(value(&token, "roles"), Some("READER"), "{token}");
    assert!(token.contains("\n\nkwt_"), "{token}");
    let tokens = service.call(&["token", "list"], "").done();
    assert!(
        tokens.starts_with("TOKEN_ID ") && tokens.lines().count() == 3,
        "{tokens}"
    );
    assert!(!holds_secret(&tokens));
    let id = value(&token, "token_id").unwrap();
    assert!(
        service
            .call(&["token", "revoke", id], "")
            .done()
            .contains("revoke_time:")
    );
}

#[test]
fn token_is_created_once_for_a_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let service = Service::start();
    let file = service.directory.path().join("bot.token");
    let create = [
        "token",
        "create",
        "bot",
        "--role",
        "verifier",
        "--into",
        "bot.token",
    ];
    let json = service.json("CreateTokenResponse", &create, "");
    assert!(json["token"].is_null() && json["caller_token"]["name"] == "bot");
    let token = std::fs::read_to_string(&file).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = service.call(&create, "");
    assert_eq!((again.code, again.out.as_str()), (0, ""));
    assert!(again.err.contains("no token was created"), "{}", again.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token);

    let key = service.issue("42").1;
    let verify = ["verify", "-", "--token-file", "bot.token"];
    assert_eq!(service.call(&verify, &key).code, 0);

    // A path that cannot become a token file is refused before a token is created.
    let directory = service.directory.path();
    std::fs::write(directory.join("empty"), "").unwrap();
    std::fs::write(directory.join("other"), "hello").unwrap();
    std::os::unix::fs::symlink("missing", directory.join("link")).unwrap();
    for (path, expected) in [
        ("empty", "exists and holds no token"),
        ("other", "exists and holds no token"),
        (".", "is a directory"),
        ("no/..", "is not the name of a file"),
        ("new/", "is not the name of a file"),
        ("link", "is a link to a missing file"),
        ("no/such", "cannot write no/such"),
    ] {
        let create = [
            "token", "create", "lost", "--role", "verifier", "--into", path,
        ];
        let err = service.call(&create, "").refused(1);
        assert!(err.contains(expected), "{err}");
    }
    let listed = service.call(&["token", "list", "--all"], "").done();
    assert!(
        listed.contains(" bot ") && !listed.contains(" lost "),
        "{listed}"
    );
    // No file may grow, as on a full disk. The token exists by then.
    let script = format!(
        "trap '' XFSZ; ulimit -f 0; exec {} token create full --role verifier --into full",
        crate::BINARY
    );
    let mut full = std::process::Command::new("sh");
    full.args(["-c", &script]).current_dir(directory);
    full.env(
        "KEYWARD_ENDPOINT",
        format!("http://{}", service.process.grpc),
    );
    let err = run(full, "").refused(1);
    let tokens = service.json("ListTokensResponse", &["token", "list"], "");
    let last = tokens["caller_tokens"].as_array().unwrap().last().unwrap();
    assert_eq!(last["name"], "full");
    let advice = format!("keyward token revoke {}", text(&last["token_id"]));
    assert!(err.contains(&advice), "{err}");

    let entries = std::fs::read_dir(directory).unwrap();
    let hidden = entries.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(hidden.count(), 0, "temporary files must be removed");
}
