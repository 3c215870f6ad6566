//! How an instance logs in to Postgres: what the environment changes, and passwords from files.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use keyward_testkit::{Client, Cluster, Options, PATIENCE, Process, eventually, http_get};

use super::BINARY;

/// A home directory with a file of passwords, which has the right one for every server.
fn home_with_pgpass(cluster: &Cluster) -> PathBuf {
    let home = cluster.directory().join("home");
    std::fs::create_dir(&home).unwrap();
    let file = home.join(".pgpass");
    std::fs::write(&file, "*:*:*:*:service-secret\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    home
}

/// The URL of the serving role without its password.
fn without_password(cluster: &Cluster) -> String {
    let url = cluster.postgres.service_url();
    url.replace(":service-secret", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_libpq_do_not_change_the_connection() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let data = cluster.directory().join("serve");
    let url = cluster.postgres.service_url();
    let mut command = cluster.command(&data, &url);
    for (name, value) in [
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", "/missing.pem"),
        ("PGPORT", "1"),
        ("PGHOST", "missing.example"),
        ("PGHOSTADDR", "192.0.2.1"),
        ("PGUSER", "nobody"),
        ("PGPASSWORD", "wrong"),
        ("PGDATABASE", "missing"),
        ("PGAPPNAME", "other"),
    ] {
        command.env(name, value);
    }
    assert!(Process::start(command, &data).stop().success());

    let mut command = cluster.command(&data, &without_password(&cluster));
    command
        .env("HOME", home_with_pgpass(&cluster))
        .env("PGPASSWORD", "service-secret");
    let (status, said) = Process::run_to_end(command);
    assert!(!status.success(), "{said}");
    assert!(said.contains("password authentication failed"), "{said}");
    assert!(!said.contains("reachable"), "{said}");

    // The driver reads these, and a URL cannot override them.
    for variable in ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"] {
        let mut command = cluster.command(&data, &url);
        command.env(variable, "-c search_path=other");
        let (status, said) = Process::run_to_end(command);
        assert!(!status.success(), "{said}");
        let expected = format!("cannot be used while the variable {variable} is set");
        assert!(said.contains(&expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_in_a_file_can_change_without_a_restart() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let file = cluster.directory().join("password");
    let data = cluster.directory().join("serve");
    let command = || {
        let mut command = cluster.command(&data, &without_password(&cluster));
        command.env("KEYWARD_STORE_PASSWORD_FILE", &file);
        command
    };
    std::fs::write(&file, "service-secret\n").unwrap();
    let mut process = Process::start(command(), &data);
    let client = Client::new(process.grpc, Some(cluster.token())).await;
    client.issue("1", "").await.unwrap();
    // Two transactions: an instance must not connect again before the change is committed.
    for sql in [
        "ALTER ROLE keyward_service PASSWORD 'another'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keyward_service'",
    ] {
        cluster.postgres.execute(sql).await;
    }
    eventually("the old password is refused", PATIENCE, async || {
        let refused = "password authentication failed for user";
        client.issue("2", "").await.is_err() && process.output().contains(refused)
    })
    .await;
    std::fs::write(&file, "another").unwrap();
    eventually("the new password is used", PATIENCE, async || {
        client.issue("3", "").await.is_ok()
    })
    .await;
    assert!(process.stop().success());
    let said = process.output();
    assert!(!said.contains("another"), "{said}");

    std::fs::remove_file(&file).unwrap();
    let (status, said) = Process::run_to_end(command());
    assert!(!status.success(), "{said}");
    for expected in ["cannot be read", "`store_password_file`"] {
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_clock_is_ahead_is_told_in_the_log_and_by_readyz() {
    let cluster = Cluster::start(BINARY, 0, Options::default());
    cluster.postgres.clock_ahead("10 minutes").await;
    let data = cluster.directory().join("serve");
    let command = cluster.command(&data, &cluster.postgres.service_url());
    let process = Process::start(command, &data);
    let ready = http_get(process.http, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for told in [process.output(), ready] {
        assert!(told.contains(" ahead of this machine's"), "{told}");
    }
}
