//! Nothing is left behind: a directory, and the server in it, end with this process, however that
//! ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Waits for the end of its input, that is, of whoever holds the other end. Then what runs in the
/// directory `$1` is told to end, and the directory is removed. No signal that a terminal sends to
/// all ends this.
const WATCH: &str = r#"
trap '' HUP INT TERM
cat > /dev/null
"#;
const REMOVE: &str = r#"
rm -rf "$1"
"#;

/// Ends a Postgres whose data is in `$1/data`, also one that is paused, and waits until it has
/// cleared up its shared memory.
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

/// Kills every process whose working directory is `$1`, and waits until they are gone. A process
/// need not have come so far as to write its id down, and has nothing to clear up.
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

/// Where temporary files that may grow go: `/tmp` is often memory, or crowded.
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
    /// Makes the directory `keyward-{name}-...`, and the watchdog before anything is in it. `end`
    /// is how the watchdog ends what runs there.
    pub(crate) fn new(name: &str, end: &str) -> Self {
        let home = tempfile::Builder::new()
            .prefix(&format!("keyward-{name}-"))
            .tempdir_in(place())
            .expect("a temporary directory can be made")
            .keep();
        // As `/proc` names it.
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
        // What it could not remove is in the system's temporary directory.
        let _ = self.watchdog.wait();
    }
}
