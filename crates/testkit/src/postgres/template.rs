//! A new database cluster, made once and copied for each server: an initdb takes most of a second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::binaries::Binaries;
use super::{OWNER, SERVICE, SUPERUSER, cache};

/// Changes whenever what is made below changes.
const EDITION: &str = "1";
const SETTINGS: &str = "\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
max_wal_size = 256MB
autovacuum_naptime = 5s
log_min_messages = warning
log_line_prefix = '%m [%p] '
";

/// The cluster that servers begin with.
pub(super) struct Template<'b> {
    binaries: &'b Binaries,
    path: PathBuf,
}

impl<'b> Template<'b> {
    /// The template of this version; made if there is none yet.
    pub(super) fn of(binaries: &'b Binaries) -> Self {
        let name = format!("{}-{EDITION}", binaries.version());
        let path = cache().join(name);
        let template = Self { binaries, path };
        if !template.path.exists() {
            template.make();
        }
        template
    }

    /// Made in a temporary directory, where the server's user may write, and then put in its place
    /// at once: another process may be making it, too.
    fn make(&self) {
        let work = tempfile::tempdir().expect("a temporary directory can be made");
        self.binaries.give(work.path());
        let data = work.path().join("data");
        let password = work.path().join("password");
        fs::write(&password, SUPERUSER).expect("the password can be written");
        self.binaries.give(&password);
        let mut initdb = self.binaries.command("initdb");
        initdb
            .args([
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--wal-segsize=1",
            ])
            .args(["--auth=scram-sha-256", "--username", SUPERUSER])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(&data);
        run(&mut initdb);
        let configuration = data.join("postgresql.conf");
        fs::write(&configuration, SETTINGS).expect("the settings can be written");
        let mut single = self.binaries.command("postgres");
        single.args(["--single", "-D"]).arg(&data).arg("postgres");
        feed(
            &mut single,
            &format!(
                "CREATE ROLE {OWNER} LOGIN PASSWORD '{OWNER}'\n\
                 CREATE ROLE {SERVICE} LOGIN PASSWORD '{SERVICE}'\n\
                 CREATE DATABASE keyward OWNER {OWNER}\n"
            ),
        );
        fs::create_dir_all(cache()).expect("target/ can be written");
        let half = tempfile::tempdir_in(cache()).expect("target/ can be written");
        copy(&data, &half.path().join("data"));
        // Another process may have been quicker; its template is as good.
        if fs::rename(half.path(), &self.path).is_ok() {
            let _ = half.keep();
        }
    }

    /// Puts a copy into `directory`, which is the server's user's then.
    pub(super) fn copy_to(&self, directory: &Path) {
        copy(&self.path.join("data"), &directory.join("data"));
        self.binaries.give_all(directory);
    }
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn feed(command: &mut Command, input: &str) {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it can be waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ERROR"), "{said}");
}
