//! The installed server, and the user that it runs as.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

/// The server's programs, and whom they run as.
pub(super) struct Binaries {
    directory: PathBuf,
    /// User and group, when this process is root's: the server refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Binaries {
    /// Those of `KEYWARD_TEST_POSTGRES`, or the newest that Debian's packages installed, or those
    /// on `PATH`.
    pub(super) fn find() -> Self {
        let directory = match std::env::var_os("KEYWARD_TEST_POSTGRES") {
            Some(directory) => Some(PathBuf::from(directory)),
            None => newest().or_else(on_path),
        };
        let directory = directory.filter(|directory| directory.join("initdb").exists());
        Self {
            directory: directory.expect(
                "there is no Postgres server: run `make test`, which installs it, or let \
                 KEYWARD_TEST_POSTGRES name a directory that holds initdb and postgres",
            ),
            user: geteuid().is_root().then(other_user),
        }
    }

    /// What the programs are, for a name that differs between them.
    pub(super) fn version(&self) -> String {
        let output = Command::new(self.directory.join("postgres"))
            .arg("--version")
            .output()
            .expect("postgres can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '.' {
                    c
                } else {
                    '-'
                }
            })
            .collect()
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        command.env_remove("PGDATA").current_dir("/");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives a file to the server's user.
    pub(super) fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("root may give files away");
        }
    }

    /// Gives a directory and all in it to the server's user.
    pub(super) fn give_all(&self, directory: &Path) {
        self.give(directory);
        for entry in std::fs::read_dir(directory).expect("the directory can be read") {
            let entry = entry.expect("the directory can be read");
            match entry.file_type().expect("a file has a type").is_dir() {
                true => self.give_all(&entry.path()),
                false => self.give(&entry.path()),
            }
        }
    }
}

fn newest() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, path.join("bin")))
        })
        .collect();
    versions.sort();
    versions.pop().map(|(_, path)| path)
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|directory| directory.join("initdb").exists())
}

/// The user `postgres`, or else `nobody`.
fn other_user() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("there are users");
    let find = |name: &str| {
        let line = users
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres")
        .or_else(|| find("nobody"))
        .expect("there is a user postgres or nobody")
}
