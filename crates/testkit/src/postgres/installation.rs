//! The installation of Postgres: its programs, the user that runs a server, and a template of the
//! data directory that is created once and copied for each server.

use std::ffi::OsString;
use std::fs::{DirBuilder, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::database::{DATABASE, User};
use crate::guard::{END_POSTGRES, Guard};

/// The directory of `initdb` and `postgres`.
const VARIABLE: &str = "KEYWARD_TEST_POSTGRES";
/// The directory in which Linux distributions install all versions.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Connections use md5 passwords, which are cheap in a debug build.
const INITDB: [&str; 7] = [
    "--no-sync",
    "--locale=C",
    "--encoding=UTF8",
    "--wal-segsize=1",
    "--auth=trust",
    "--username=postgres",
    "--no-instructions",
];
const HBA: &str = "host all,replication all 127.0.0.1/32 md5\n";

/// The programs and the user of the server.
#[derive(Clone)]
pub(super) struct Installation {
    bin: PathBuf,
    /// User and group; `None` for those of this process.
    owner: Option<(u32, u32)>,
}

impl Installation {
    /// Finds the installation.
    ///
    /// # Panics
    ///
    /// This machine has no Postgres.
    pub(super) fn find() -> Self {
        let owner = rustix::process::geteuid()
            .is_root()
            .then(|| server_user(&std::fs::read_to_string("/etc/passwd").unwrap_or_default()));
        Self {
            bin: binaries(),
            owner,
        }
    }

    /// The command for a program of the server, as the server's user in `directory`.
    pub(super) fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(directory).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            // These variables configure libpq and the server.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives a file or directory to the server's user.
    pub(super) fn give(&self, path: &Path) {
        if let Some((user, group)) = self.owner {
            chown(path, Some(user), Some(group)).expect("root can give a file away");
        }
    }

    /// Writes a file of the server's user.
    pub(super) fn write(&self, path: &Path, text: &str) {
        std::fs::write(path, text).expect("a file of the server can be written");
        self.give(path);
    }

    /// Creates the data directory of a server in `home`.
    pub(super) fn prepare(&self, home: &Path) {
        let template = self.template();
        self.give(home);
        self.copy(&template, &home.join("data"));
    }

    /// A data directory with the database and the users. Creates it if it is missing.
    fn template(&self) -> PathBuf {
        let version = self
            .command("postgres", Path::new("/"))
            .arg("--version")
            .output();
        let version = version.expect("postgres tells its version").stdout;
        let mut hasher = DefaultHasher::new();
        (&version, INITDB, HBA, setup()).hash(&mut hasher);
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit");
        let path = store.join(format!("postgres-{:016x}", hasher.finish()));
        if path.is_dir() {
            return path;
        }
        std::fs::create_dir_all(&store).expect("target/testkit can be made");
        let unfinished =
            tempfile::tempdir_in(&store).expect("a directory can be made in target/testkit");
        let guard = Guard::new("postgres", END_POSTGRES);
        self.give(guard.home());
        self.initialise(guard.home());
        let current_user = Self {
            bin: self.bin.clone(),
            owner: None,
        };
        current_user.copy(&guard.home().join("data"), &unfinished.path().join("data"));
        // Atomic. Another test process may have created the directory first.
        if let Err(error) = std::fs::rename(unfinished.path().join("data"), &path) {
            assert!(path.is_dir(), "{}: {error}", path.display());
        }
        path
    }

    fn initialise(&self, home: &Path) {
        let data = home.join("data");
        let mut initdb = self.command("initdb", home);
        let output = initdb.args(INITDB).arg("--pgdata").arg(&data).output();
        let output = output.expect("initdb can be started");
        assert!(
            output.status.success(),
            "initdb failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("pg_hba.conf can be written");
        let mut single = self.command("postgres", home);
        let mut single = single
            .arg("--single")
            .args(["-c", "fsync=off", "-c", "exit_on_error=on"])
            .arg("-D")
            .arg(&data)
            .arg("template1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("postgres can be started");
        let mut input = single.stdin.take().expect("stdin is piped");
        input.write_all(setup().as_bytes()).expect("postgres reads");
        drop(input);
        let output = single.wait_with_output().expect("postgres ends");
        assert!(
            output.status.success(),
            "cannot create the users: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Copies a directory recursively, readable only by the server's user.
    pub(super) fn copy(&self, from: &Path, to: &Path) {
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(to)
            .expect("a directory can be made");
        self.give(to);
        for entry in std::fs::read_dir(from).expect("the template can be read") {
            let entry = entry.expect("the template can be read");
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if entry.file_type().expect("a file has a type").is_dir() {
                self.copy(&from, &to);
            } else {
                std::fs::copy(&from, &to).expect("a file can be copied");
                self.give(&to);
            }
        }
        std::fs::set_permissions(to, Permissions::from_mode(0o700)).expect("modes can be set");
    }
}

/// One statement on each line, as single-user mode requires. Unused databases are dropped, because
/// they are most of the files to copy.
fn setup() -> String {
    let password = |user: User| format!("PASSWORD '{}'", user.password());
    format!(
        "SET password_encryption = 'md5';\n\
         ALTER ROLE postgres {};\n\
         CREATE ROLE keyward_owner LOGIN {};\n\
         CREATE ROLE keyward_service LOGIN {};\n\
         CREATE DATABASE {DATABASE} OWNER keyward_owner;\n\
         DROP DATABASE postgres;\n\
         UPDATE pg_database SET datistemplate = false WHERE datname = 'template0';\n\
         DROP DATABASE template0;\n",
        password(User::Superuser),
        password(User::Owner),
        password(User::Service)
    )
}

fn binaries() -> PathBuf {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = PathBuf::from(named);
        assert!(
            is_complete(&named),
            "{VARIABLE}: no initdb and postgres in {}",
            named.display()
        );
        return named;
    }
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let newest = versions
        .filter(|version| is_complete(&version.path().join("bin")))
        .filter_map(|version| Some((number(&version.file_name())?, version.path().join("bin"))))
        .max();
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest
        .map(|(_, bin)| bin)
        .or_else(|| std::env::split_paths(&path).find(|bin| is_complete(bin)))
        .unwrap_or_else(|| {
            panic!(
                "the tests require a Postgres server. Run `make test` to install it, or set \
                 {VARIABLE} to the directory of its programs"
            )
        })
}

fn is_complete(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

fn number(name: &OsString) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The user and group of a server that root starts, because Postgres refuses root.
fn server_user(passwd: &str) -> (u32, u32) {
    let find = |name: &str| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .expect("the machine has a user postgres or nobody")
}
