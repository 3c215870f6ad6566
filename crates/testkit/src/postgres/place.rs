//! Where a private server comes from: the binaries, the user it runs as, and a data directory that
//! is made once and copied for each.

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

/// Names a directory with `initdb` and `postgres`.
const VARIABLE: &str = "KEYWARD_TEST_POSTGRES";
/// Where distributions put each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Passwords are real, and md5 keeps a connection cheap in a debug build.
const INITDB: [&str; 7] = [
    "--no-sync",
    "--locale=C",
    "--encoding=UTF8",
    "--wal-segsize=1",
    "--auth=trust",
    "--username=postgres",
    "--no-instructions",
];
const HBA: &str = "host all all 127.0.0.1/32 md5\n";

/// The binaries and the user.
#[derive(Clone)]
pub(super) struct Place {
    bin: PathBuf,
    /// User and group; `None`: those of this process.
    owner: Option<(u32, u32)>,
}

impl Place {
    /// Finds them.
    ///
    /// # Panics
    ///
    /// When there is no Postgres on this machine.
    pub(super) fn find() -> Self {
        let owner = rustix::process::geteuid()
            .is_root()
            .then(|| server_user(&std::fs::read_to_string("/etc/passwd").unwrap_or_default()));
        Self {
            bin: binaries(),
            owner,
        }
    }

    /// A program of the server, to be run as its user in `directory`.
    pub(super) fn command(&self, program: &str, directory: &Path) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(directory).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            // Variables of libpq and of the server.
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

    /// Makes the data directory of a server in `home`.
    pub(super) fn prepare(&self, home: &Path) {
        let template = self.template();
        self.give(home);
        self.copy(&template, &home.join("data"));
    }

    /// A data directory with the database and the users, made when it is not there yet.
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
        let half = tempfile::tempdir_in(&store).expect("a directory can be made in target/testkit");
        let made = Guard::new("postgres", END_POSTGRES);
        self.give(made.home());
        self.initialise(made.home());
        let mine = Self {
            bin: self.bin.clone(),
            owner: None,
        };
        mine.copy(&made.home().join("data"), &half.path().join("data"));
        // Whole or not at all; another test process may have been faster.
        if let Err(error) = std::fs::rename(half.path().join("data"), &path) {
            assert!(path.is_dir(), "{}: {error}", path.display());
        }
        path
    }

    fn initialise(&self, home: &Path) {
        let data = home.join("data");
        let mut initdb = self.command("initdb", home);
        let made = initdb.args(INITDB).arg("--pgdata").arg(&data).output();
        let made = made.expect("initdb can be started");
        assert!(
            made.status.success(),
            "initdb failed: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
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
            "the users cannot be made: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Copies a directory with all that is in it, for the server's user alone.
    fn copy(&self, from: &Path, to: &Path) {
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

/// One statement a line: so a server in single-user mode wants it. Databases that nobody uses go: they
/// are most of the files to copy.
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
                "these tests need the server of Postgres: `make test` installs it, or name the \
                 directory of its programs with {VARIABLE}"
            )
        })
}

fn is_complete(bin: &Path) -> bool {
    bin.join("initdb").is_file() && bin.join("postgres").is_file()
}

fn number(name: &OsString) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The user and group that a server of root's runs as, since Postgres refuses root.
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
        .expect("there is a user postgres or nobody, as whom Postgres can run")
}
