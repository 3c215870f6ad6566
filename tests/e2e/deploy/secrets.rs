//! What `deploy/secrets.sh` makes, keeps and refuses.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};

use super::repository;

fn secrets(home: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(repository().join("deploy/secrets.sh"));
    command
        .arg(home)
        .env_remove("TELEGRAM_TOKEN")
        .env_remove("KEYWARD_NAMES")
        .env_remove("SUDO_UID")
        .env_remove("SUDO_GID");
    command.envs(variables.iter().copied()).output().unwrap()
}

fn made(home: &Path, variables: &[(&str, &str)]) {
    let output = secrets(home, variables);
    assert!(output.status.success(), "{output:?}");
}

/// The names that a certificate is for.
fn names(home: &Path, file: &str) -> String {
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(home.join(file))
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap()
}

#[test]
fn a_second_call_keeps_what_was_made_and_what_was_written_into_it() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    made(
        home,
        &[
            ("KEYWARD_NAMES", "keys.example.org 10.0.0.5"),
            ("TELEGRAM_TOKEN", "1:a"),
        ],
    );
    for name in [
        "DNS:keys.example.org",
        "IP Address:10.0.0.5",
        "DNS:keyward-b",
        "DNS:localhost",
    ] {
        let names = names(home, "secrets/keyward.crt");
        assert!(names.contains(name), "{names}");
    }
    let edited = "store = \"postgres://managed\"\n";
    for file in ["instance.toml", "owner.toml"] {
        fs::write(home.join("secrets").join(file), edited).unwrap();
    }
    let dotenv = fs::read_to_string(home.join(".env")).unwrap();
    fs::write(home.join(".env"), format!("KEYWARD_PORT=443\n{dotenv}")).unwrap();
    let kept = [
        "secrets/ca.pem",
        "secrets/ca.key",
        "secrets/redis.acl",
        "secrets/redis.password",
        "secrets/instance.toml",
        "secrets/owner.toml",
        "secrets/telegram.token",
        "secrets/redis.crt",
    ];
    let read = || kept.map(|file| fs::read_to_string(home.join(file)).unwrap());
    let before = read();
    let certificate = fs::read(home.join("secrets/keyward.crt")).unwrap();
    fs::remove_file(home.join("secrets/keyward.crt")).unwrap();
    // For a renewal, without the names of before.
    made(home, &[]);
    assert_eq!(read(), before);
    assert_ne!(
        fs::read(home.join("secrets/keyward.crt")).unwrap(),
        certificate
    );
    assert!(names(home, "secrets/keyward.crt").contains("DNS:keys.example.org"));
    let dotenv = fs::read_to_string(home.join(".env")).unwrap();
    assert!(dotenv.contains("KEYWARD_PORT=443\n"), "{dotenv}");
    assert_eq!(dotenv.matches("KEYWARD_USER=").count(), 1, "{dotenv}");
}

#[test]
fn no_container_is_root_and_nobody_else_reads_the_files() {
    let home = tempfile::tempdir().unwrap();
    made(home.path(), &[("SUDO_UID", "1234"), ("SUDO_GID", "1235")]);
    let dotenv = fs::read_to_string(home.path().join(".env")).unwrap();
    let owner = |file: &str| {
        let file = fs::metadata(home.path().join(file)).unwrap();
        (file.uid(), file.gid(), file.permissions().mode() & 0o077)
    };
    let (uid, gid, others) = owner("secrets/instance.toml");
    assert_eq!(others, 0);
    assert!(
        uid != 0 && dotenv.contains(&format!("KEYWARD_USER={uid}:{gid}\n")),
        "{dotenv}"
    );
    assert_eq!(owner("state/keyward"), (uid, gid, 0));
}

#[test]
fn a_name_that_is_none_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let refused = secrets(home.path(), &[("KEYWARD_NAMES", "good.example a,DNS:evil")]);
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("'a,DNS:evil' is not a host name"), "{said}");
    assert!(!home.path().join("secrets/keyward.crt").exists());
}
