//! An operator's commands: a new database, its schema, and secrets that are created once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyward_testkit::{Client, Cluster, Options, Process};

use super::BINARY;

/// Runs the binary as the operator; what it said on stderr, and whether it went well.
fn run(cluster: &Cluster, arguments: &[&str], variables: &[(&str, &Path)]) -> (bool, String) {
    let mut command = cluster.operator();
    command.args(arguments).envs(variables.iter().copied());
    let (status, said) = Process::run_to_end(command);
    assert!(!said.contains("owner-secret"), "{said}");
    (status.success(), said)
}

#[tokio::test]
async fn a_database_gets_its_secrets_once() {
    // The cluster's start was `keyward init`.
    let cluster = Cluster::start(BINARY, 1, Options::default());
    let elsewhere = cluster.directory().join("elsewhere");
    let keyring = elsewhere.join("keyring");
    let fresh = [
        ("KEYWARD_DATA_DIR", elsewhere.as_path()),
        ("KEYWARD_KEYRING", &keyring),
    ];
    let (done, said) = run(&cluster, &["init"], &fresh);
    assert!(
        !done && said.contains("already has a keyring and tokens"),
        "{said}"
    );
    assert!(!keyring.exists() && !elsewhere.join("admin.token").exists());

    let init = cluster.directory().join("init");
    let token = init.join("admin.token");
    let before = std::fs::read(&token).unwrap();
    let (done, said) = run(&cluster, &["init"], &[("KEYWARD_DATA_DIR", &init)]);
    assert!(!done && said.contains("is not overwritten"), "{said}");
    assert_eq!(std::fs::read(&token).unwrap(), before);
    for path in [&token, &cluster.keyring().join("generation-1")] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }

    // Moving the schema again changes nothing, while instances serve.
    let (done, said) = run(
        &cluster,
        &["migrate", "--service-role", "keyward_service"],
        &[],
    );
    assert!(done, "{said}");
    let client: Client = cluster.client(0).await;
    client.issue("42", "").await.unwrap();
}

#[tokio::test]
async fn a_keyring_of_another_database_is_not_taken_for_a_new_one() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let database = cluster.postgres.fresh_database("second").await;
    let data = cluster.directory().join("second");
    let owner = database.owner_url();
    let url = Path::new(&owner);
    let (done, said) = run(
        &cluster,
        &["init"],
        &[("KEYWARD_STORE", url), ("KEYWARD_DATA_DIR", &data)],
    );
    assert!(
        !done && said.contains("belongs to another database"),
        "{said}"
    );
    assert!(!data.join("admin.token").exists());
    // With one of its own it begins, and `--token-file` says where the token goes.
    let (keyring, token) = (data.join("keyring"), data.join("first/token"));
    let variables = [
        ("KEYWARD_STORE", url),
        ("KEYWARD_DATA_DIR", &data),
        ("KEYWARD_KEYRING", &keyring),
    ];
    let arguments = ["init", "--token-file", token.to_str().unwrap()];
    let (done, said) = run(&cluster, &arguments, &variables);
    assert!(done, "{said}");
    assert!(keyring.join("generation-1").exists() && token.exists());
    assert!(!data.join("admin.token").exists());
}

#[tokio::test]
async fn a_start_on_a_database_without_secrets_or_with_others_says_what_to_do() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let serve = |store: &str, keyring: &Path| {
        let data = cluster.directory().join("serve");
        let mut command = cluster.command(&data, store);
        command.env("KEYWARD_KEYRING", keyring);
        let (status, said) = Process::run_to_end(command);
        assert!(!status.success(), "{said}");
        assert!(!said.contains("-secret"), "{said}");
        said
    };
    let database = cluster.postgres.fresh_database("bare").await;
    let said = serve(&database.owner_url(), &cluster.keyring());
    assert!(said.contains("keyward init"), "{said}");
    let (done, said) = run(
        &cluster,
        &["migrate"],
        &[("KEYWARD_STORE", Path::new(&database.owner_url()))],
    );
    assert!(done, "{said}");
    let said = serve(&database.owner_url(), &cluster.keyring());
    assert!(
        said.contains("has no keyring yet: run `keyward init`"),
        "{said}"
    );
    let absent = cluster.directory().join("absent");
    let said = serve(&cluster.postgres.service_url(), &absent);
    assert!(said.contains("there is no keyring in"), "{said}");
    assert!(!absent.exists(), "none is made");
    let nobody = "postgres://keyward_service:service-secret@127.0.0.1:1/keyward";
    let said = serve(nobody, &cluster.keyring());
    assert!(said.contains("no Postgres primary answers"), "{said}");
}
