//! Guards a directory and the server in it: both end with this process, however it ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Waits for the end of its input, which means that the process with the other end has ended. Then
/// ends the server in the directory `$1` and removes the directory. Ignores the signals that a
/// terminal sends to all processes.
const WATCH: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
"#;
const REMOVE: &str = r#"
rm -rf "$1"
"#;

/// Ends a running or paused Postgres with its data in `$1/data`, and waits until it has removed its
/// shared memory.
pub(crate) const END_POSTGRES: &str = r#"
if read -r pid < "$1/data/postmaster.pid"; then
    kill -QUIT "$pid"
    pkill -CONT -P "$pid"
    kill -CONT "$pid"
    n=0
    while [ -e "$1/data/postmaster.pid" ] && [ "$n" -lt 150 ]; do
        sleep 0.1
        n=$((n + 1))
    done
fi
"#;

/// Kills every process with the working directory `$1`, and waits for their ends. This also finds a
/// process that has not written its id yet.
pub(crate) const KILL_ALL: &str = r#"
found() {
    find /proc -mindepth 2 -maxdepth 2 -name cwd -lname "$1" -printf '%h\n'
}
while processes=$(found "$1"); [ -n "$processes" ]; do
    for process in $processes; do
        kill -KILL "${process#/proc/}"
    done
    sleep 0.01
done
"#;

/// The directory for temporary files, which can become large: `/tmp` is often in memory or nearly
/// full.
fn place() -> PathBuf {
    let large = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if large.is_dir() => large,
        _ => std::env::temp_dir(),
    }
}

/// A temporary directory with a watchdog.
pub(crate) struct Guard {
    watchdog: Child,
    home: PathBuf,
}

impl Guard {
    /// Creates the directory `keyward-{name}-...`, and starts the watchdog while the directory is
    /// empty. `end` is the script that ends the server.
    pub(crate) fn new(name: &str, end: &str) -> Self {
        let home = tempfile::Builder::new()
            .prefix(&format!("keyward-{name}-"))
            .tempdir_in(place())
            .expect("a temporary directory can be made")
            .keep();
        // The canonical path, as in `/proc`.
        let home = home.canonicalize().expect("the directory has a path");
        let watchdog = Command::new("sh")
            .args(["-c", &[WATCH, end, REMOVE].concat(), "watchdog"])
            .arg(&home)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Self { watchdog, home }
    }

    /// The directory.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // A directory that cannot be removed stays in the system's temporary directory.
        let _ = self.watchdog.wait();
    }
}
