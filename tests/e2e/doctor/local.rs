//! Faults of one machine: settings, files, certificates, and the embedded store.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyward_proto::v1::{self, Role};
use keyward_testkit::requests::{creating_token, seconds};
use keyward_testkit::{Authority, sqlite_execute, without_settings};

use super::Findings;
use crate::{BINARY, fresh_directory, serve};

/// Names, modes and contents of all files below `directory`.
fn files(directory: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            found.insert(path.display().to_string(), (mode, fs::read(&path).unwrap()));
        }
    }
    found
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The doctor on an embedded store whose instance has its side port at `http`.
fn embedded(data_dir: &Path, http: &str) -> Command {
    let mut command = without_settings(BINARY);
    command
        .current_dir(data_dir.parent().unwrap())
        .args([
            "doctor",
            "--output",
            "json",
            "--http-listen",
            http,
            "--data-dir",
        ])
        .arg(data_dir);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_is_examined_before_beside_and_after_its_instance() {
    let (directory, data_dir) = fresh_directory();
    let examine = |http: &str| Findings::of(embedded(&data_dir, http));
    let found = examine("none");
    found.are_fine();
    found.has("ok", "data_dir", &["the first start creates it"]);
    found.has("ok", "store", &["the first start creates it"]);
    assert!(!data_dir.exists());

    let mut process = serve(&data_dir);
    let client = process.client().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let http = process.http.to_string();
    let found = examine(&http);
    found.are_fine();
    found.has(
        "ok",
        "store",
        &[&format!("in use by process {}", process.id())],
    );
    found.has(
        "ok",
        "keyring",
        &["generation-1 (active)", "seal-1 (active)"],
    );
    found.has("ok", "service", &["is fresh and serves"]);
    client.revoke(&id).await.unwrap();
    assert_eq!(
        client.verify(&key).await.unwrap().as_str_name(),
        "VERDICT_REVOKED"
    );
    assert_eq!(process.output().matches("WARN").count(), 0);

    process.kill();
    let found = examine(&http);
    found.are_fine();
    found.has("ok", "store", &["in use by no process"]);
    found.has("ok", "service", &["no instance answers"]);

    let mut process = serve(&data_dir);
    assert!(process.stop().success());
    let before = files(directory.path());
    examine("none").are_fine();
    assert_eq!(
        files(directory.path()),
        before,
        "the doctor leaves no trace"
    );

    let generation = data_dir.join("keyring/generation-1");
    set_mode(&generation, 0o644);
    let found = examine("none");
    let remedy = format!("chmod o-rwx \"{}\"", generation.display());
    found.only("error", "keyring", &["every user of this machine", &remedy]);
    set_mode(&generation, 0o600);

    let token = data_dir.join("admin.token");
    set_mode(&token, 0o604);
    examine("none").only("error", "token", &["chmod o-rwx", "admin.token"]);
    set_mode(&token, 0o600);

    set_mode(&data_dir, 0o705);
    examine("none").only("warning", "data_dir", &["chmod o-rwx"]);
    set_mode(&data_dir, 0o700);

    if rustix::process::geteuid().is_root() {
        chown(&data_dir, Some(65_534), None).unwrap();
        let remedy = "sudo -u '#65534' keyward doctor";
        examine("none").only("warning", "data_dir", &["belongs to user 65534", remedy]);
        chown(&data_dir, Some(0), None).unwrap();
    }

    let other = fresh_directory();
    let mut process = serve(&other.1);
    assert!(process.stop().success());
    let mut command = embedded(&data_dir, "none");
    command.arg("--keyring").arg(other.1.join("keyring"));
    let remedy = "Restore the keyring that belongs to the store";
    Findings::of(command).only(
        "error",
        "keyring",
        &["does not belong to this store", remedy],
    );

    for (sql, level, subject, texts) in [
        (
            "UPDATE store_clock SET newest = newest + 315360000000000",
            "warning",
            "clock",
            &["ahead of this machine's", "the runbook"][..],
        ),
        (
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', true, x'00', 0)",
            "error",
            "store",
            &["has schema 9999", "run that version"],
        ),
    ] {
        sqlite_execute(&data_dir.join("keyward.db"), sql).await;
        examine("none").only(level, subject, texts);
    }
    fs::write(data_dir.join("keyward.db"), "no database").unwrap();
    examine("none").has("error", "store", &["cannot be opened", "not a database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_soon_is_found() {
    let (_directory, data_dir) = fresh_directory();
    let mut process = serve(&data_dir);
    let client = process.client().await;
    let day = 24 * 3_600;
    for (name, ttl) in [("later", 16 * day), ("short", 13 * day), ("ever", 0)] {
        let request = v1::CreateTokenRequest {
            ttl: seconds(ttl).filter(|_| ttl > 0),
            ..creating_token(name, &[Role::Reader])
        };
        client.send(request).await.unwrap();
    }
    assert!(process.stop().success());
    Findings::of(embedded(&data_dir, "none")).are_fine();
    let database = data_dir.join("keyward.db");
    let id = "01890000000070008000000000000001";
    for (san, name, ending, texts) in [
        (
            "NULL, 1",
            "billing",
            "+ 2 * 86400 + 3000",
            &[
                "billing",
                "expires in 2 days",
                "`keyward token create billing --role verifier --role near_cache --into FILE`",
            ][..],
        ),
        (
            "'mesh.example', NULL",
            "mesh",
            "- 5 * 3600 - 60",
            &[
                "mesh",
                "has expired 5 hours ago",
                "`keyward token revoke 01890000-0000-7000-8000-000000000001`",
                "`keyward token create mesh --role verifier --role near_cache --san mesh.example`",
            ],
        ),
    ] {
        // Made long ago.
        let insert = format!(
            "INSERT INTO caller_tokens (token_id, digest, san, generation, name, roles, create_time, expire_time)
             VALUES (x'{id}', randomblob(32), {san}, '{name}', 'verifier,near_cache', 1700000000000000,
                     (unixepoch() {ending}) * 1000000)"
        );
        sqlite_execute(&database, &insert).await;
        Findings::of(embedded(&data_dir, "none")).only("warning", "token", texts);
        let delete = "DELETE FROM caller_tokens WHERE name IN ('billing', 'mesh')";
        sqlite_execute(&database, delete).await;
    }
}

#[test]
fn wrong_settings_are_findings() {
    let (_directory, data_dir) = fresh_directory();
    let mut command = embedded(&data_dir, "none");
    command.args(["--log-format", "xml", "--workers", "many"]);
    let found = Findings::of(command);
    assert_eq!(found.all.len(), 2, "{:?}", found.all);
    found.has("error", "settings", &["workers = 'many' (flag --workers)"]);
    found.has("error", "settings", &["log_format = 'xml'"]);
}

#[test]
fn a_certificate_that_clients_would_refuse_is_found() {
    let (directory, data_dir) = fresh_directory();
    let authority = Authority::new();
    let (day, hour) = (Duration::from_secs(24 * 3_600), Duration::from_secs(3_600));
    let names = ["localhost"];
    let examine = |texts: &[&str], level: &str| {
        let mut command = embedded(&data_dir, "none");
        command
            .env("KEYWARD_TLS_CERT", directory.path().join("server.crt"))
            .env("KEYWARD_TLS_KEY", directory.path().join("server.key"));
        let found = Findings::of(command);
        match level {
            "ok" => {
                found.are_fine();
                found.has(level, "tls", texts);
            }
            _ => found.only(level, "tls", texts),
        }
    };
    examine(&["cannot read", "server.crt"], "error");
    let other = authority.sign(&names);
    authority
        .sign_for(&names, 90 * day + hour)
        .write(directory.path());
    examine(&["fit", "90 days"], "ok");
    fs::write(directory.path().join("server.key"), &other.key).unwrap();
    examine(&["does not belong to the first certificate"], "error");
    authority
        .sign_for(&names, 3 * day + hour)
        .write(directory.path());
    examine(&["expires in 3 days", "Renew it"], "warning");
    authority.sign_expired(&names).write(directory.path());
    examine(&["has expired", "Renew it"], "error");
    set_mode(&directory.path().join("server.key"), 0o644);
    examine(&["chmod o-rwx"], "error");
}
